"""A person at the keyboard: `python -m worldplay_env.play` opens a window on a running world.

`session` runs a world and says what to show when, over any world and for any screen; `making`, `timeline`, `pacing`
and `script` are its parts. `keys`, `screen`, `overlay` and `player` make the window; `studio` writes films and
pictures.
"""
