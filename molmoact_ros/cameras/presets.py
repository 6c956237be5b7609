"""Recommended settings of each RealSense camera: size, rate, depth preset and range, with the source of every number.

Tuning guide: "Tuning depth cameras for best performance", dev.intelrealsense.com. Datasheet: "Intel RealSense Product
Family D400 Series", 337029. All run at 30 frames/s, as the librealsense wiki recommends for D415 and D435: the frames
of two free-running cameras are then at most 17 ms apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Preset:
    """Size in pixels and rate in frames/s of colour and depth; depth is valid between nearest and farthest, m.

    visual_preset: name of librealsense's depth preset.
    """

    width: int
    height: int
    rate: int
    visual_preset: str
    nearest: float
    farthest: float


# The depth preset "High Density" has the fewest holes (librealsense wiki, "D400 Series Visual Presets"): depth codes
# describe the whole image, holes included. The D405's default preset is tuned for it.
PRESETS: Final = {
    # Datasheet, Minimum-Z Depth: 70 mm at 848x480. Product page, ideal range: up to 50 cm; 1 m is ours.
    "D405": Preset(848, 480, 30, "default", 0.07, 1.0),
    # Tuning guide: 1280x720. Datasheet, Minimum-Z Depth: 450 mm at that size; product page, ideal range: up to 3 m.
    "D415": Preset(1280, 720, 30, "high_density", 0.45, 3.0),
    # Tuning guide: 848x480. Datasheet, Minimum-Z Depth: 195 mm at that size; product page, ideal range: up to 3 m.
    "D435": Preset(848, 480, 30, "high_density", 0.195, 3.0),
    # The tuning guide's author in librealsense issue 7820: 848x480. Datasheet, Minimum-Z Depth: 350 mm at that size;
    # product page, ideal range: up to 6 m.
    "D455": Preset(848, 480, 30, "high_density", 0.35, 6.0),
}


def preset_of(model: str) -> Preset:
    """The preset for a device name such as "Intel RealSense D435I". Raises ValueError for one without a preset."""
    for name, preset in PRESETS.items():
        if name in model.upper():
            return preset
    raise ValueError(
        f"no preset is known for {model!r}; name it by `serial`, and set `model` to one of {', '.join(PRESETS)}"
    )
