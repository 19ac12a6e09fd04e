"""A person at the keyboard: `python -m worldplay_env.play` opens a window on a running world.

`session` runs a world and says what to show when; `chunk_job`, `key_buffer`, `pacing` and `replay` are its parts.
`presenter` does what a person or a script says and tells a screen what to show, a `screen_state`; `recorder` writes
films and pictures. None of these needs a window: `window_player`, `screen` and `overlay` make one with pygame.
"""
