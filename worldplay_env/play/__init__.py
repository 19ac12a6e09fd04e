"""A person at the keyboard: `python -m worldplay_env.play` opens a window on a running world.

`session` runs a world and says what to show when, over any world and for any screen; `chunk_job`,
`key_buffer`, `pacing` and `replay` are its parts. `keys`, `screen`, `overlay` and `window_player` make the window;
`recorder` writes films and pictures.
"""
