"""Ten lines: step a world, and keep the film.

python examples/quickstart.py
"""

import argparse

import gymnasium as gym

import worldplay_env

argparse.ArgumentParser(description="Step a world, and keep the film in outputs/quickstart.mp4.").parse_args()

env = gym.make("WorldPlay/Tiny-v0")
obs, info = env.reset(seed=0)  # obs: uint8 [16, height, width, 3], the newest second of video
with worldplay_env.FilmWriter("outputs/quickstart.mp4", env.get_wrapper_attr("fps")) as film:
    for keys in (["w"], ["w", "right"], ["w", "right"], ["w"]):
        action = worldplay_env.label_of_keys(keys)  # 0..80
        obs, reward, terminated, truncated, info = env.step(action)
        film.write(obs[-info["new_frames"] :])
        print(f"{worldplay_env.action_name(action)}: {info['frame']} frames so far")
env.close()
