"""The player as a page in a browser: `python -m worldplay_env.play --web`. It needs the extra `web`.

`player` runs a presenter as the page's screen; `hub` sends frames and states to each viewer, as fast as its line
takes them; `protocol` defines the messages, `access` decides who may connect, and `server` serves all of it. The
folder `page` holds what the browser loads.
"""
