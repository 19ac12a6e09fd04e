"""Results of an evaluation that nobody measured."""

from __future__ import annotations

from typing import Any


def made_up(psnr: float, ssim: float, *, latest_psnr: float, right: int, tone_ratio: float) -> dict[str, Any]:
    """Return the result of one scene in which the world has these figures."""

    def figures(psnr: float, ssim: float) -> dict[str, Any]:
        return {"psnr": psnr, "ssim": ssim, "whole_psnr": psnr - 1, "whole_ssim": ssim, "frames": 9, "left_out": 1}

    series = {"world": figures(psnr, ssim), "repeat": figures(12.0, 0.3), "autoencoder": figures(31.0, 0.9)}
    short = {**series, "moved": figures(33.0, 0.95), "clip": {"whole_psnr": 31.0, "whole_ssim": 0.9}}
    own = {"outbound": figures(psnr, ssim), "outbound_repeat": figures(12.0, 0.3)}
    told = {"actions": 20, "world": right, "repeat": 2, "autoencoder": 20, "mistaken": []}
    truth = {"mean": 100.0, "contrast": 50.0}
    tinted = {name: value * tone_ratio for name, value in truth.items()}
    line = {"psnr": [None, psnr], "ssim": [None, ssim]}
    return {
        "short": short,
        "long": {**series, **own, "latest": figures(latest_psnr, ssim), "curve": {"world": line}},
        "actions": told,
        "all_actions": told,
        "drift": {"truth": truth, "world": tinted, "repeat": tinted, "autoencoder": truth},
    }
