"""Keys: every combination is an action, and every command has one key."""

from __future__ import annotations

from itertools import combinations

from worldplay_env.control.actions import KEYS, NUM_ACTIONS, label_of_keys
from worldplay_env.play.keys import HELP, Command, action_of, command, movement


def test_the_combinations_of_movement_keys_are_the_81_actions() -> None:
    held = [keys for count in range(9) for keys in combinations(KEYS, count)]
    assert {label_of_keys(keys) for keys in held} == set(range(NUM_ACTIONS))


def test_keys_are_known_by_the_names_that_pygame_gives_them() -> None:
    import pygame

    pygame.display.init()
    moves = (
        pygame.K_w,
        pygame.K_s,
        pygame.K_a,
        pygame.K_d,
        pygame.K_UP,
        pygame.K_DOWN,
        pygame.K_LEFT,
        pygame.K_RIGHT,
    )
    assert [movement(pygame.key.name(code)) for code in moves] == list(KEYS)
    commands = (pygame.K_RETURN, pygame.K_KP_ENTER, pygame.K_ESCAPE)
    assert [command(pygame.key.name(code)) for code in commands] == [Command.RESTART, Command.RESTART, Command.LEAVE]


def test_no_key_both_moves_and_commands() -> None:
    assert not [command_ for command_ in Command if movement(command_.value)]
    assert not [key for key in KEYS if command(key)]
    assert command("q") is None
    assert movement("q") is None


def test_the_help_names_every_command() -> None:
    assert [words.split()[0][0] for words in HELP] == [command_.value[0].upper() for command_ in Command]


def test_an_action_is_named_and_opposites_cancel() -> None:
    assert action_of(["w", "right"]) == "forward + yaw right"
    assert action_of(["w", "s"]) == "stand still"
