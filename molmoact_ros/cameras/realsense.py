"""One RealSense camera through Intel's library: found, opened and read. Recordings (.bag, .db3) are cameras too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np

from molmoact_ros.cameras.intrinsics import CameraIntrinsics


def import_pyrealsense2() -> Any:
    """The module pyrealsense2. Raises RuntimeError, saying what to install, where it is missing."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise RuntimeError(
            f"RealSense cameras need pyrealsense2 ({error}); pip install 'molmoact_ros[realsense]' and, "
            "if libusb is missing, apt install libusb-1.0-0"
        ) from None
    return pyrealsense2


# Finding


@dataclass(frozen=True)
class FoundCamera:
    """A camera that is plugged in. usb: such as "3.2", "2.1", or empty where it is not known."""

    serial: str
    model: str
    usb: str
    device: Any = field(repr=False)

    @property
    def is_slow(self) -> bool:
        """Whether it hangs on USB 2, which has room for small or slow pictures only."""
        return self.usb.startswith(("1", "2"))

    def __str__(self) -> str:
        usb = f", USB {self.usb}" if self.usb else ""
        return f"{self.serial} ({self.model}{usb})"


def list_devices(devices: Iterable[Any]) -> list[FoundCamera]:
    """What librealsense's devices are; those that do not answer are left out."""
    rs, cameras = import_pyrealsense2(), []
    for device in devices:
        try:
            serial, name, usb = (
                device.get_info(info) if device.supports(info) else ""
                for info in (rs.camera_info.serial_number, rs.camera_info.name, rs.camera_info.usb_type_descriptor)
            )
        except RuntimeError:  # unplugged between being listed and being asked
            continue
        cameras.append(FoundCamera(serial, name, usb, device))
    return cameras


def select_device(cameras: list[FoundCamera], serial: str, model: str) -> FoundCamera:
    """The camera with this serial number; where it is "", the only one of this model, such as D405 ("": of any).

    Raises LookupError, naming those plugged in.
    """
    if serial:
        fitting = [camera for camera in cameras if camera.serial == serial]
    else:
        fitting = [camera for camera in cameras if model.upper() in camera.model.upper()]
    if len(fitting) == 1:
        return fitting[0]
    present = ", ".join(map(str, cameras)) or "none"
    if fitting:
        raise LookupError(f"several cameras fit; set `serial` to one of those plugged in: {present}")
    wanted = f"camera {serial}" if serial else model or "camera"
    raise LookupError(f"no {wanted} is plugged in; those that are: {present}")


NAMES: Final = ("front", "wrist")
"""What cameras are called in our profiles."""


def profile_of(cameras: list[FoundCamera]) -> str:
    """The part of a profile that names these cameras. A D405 is taken for one at the wrist."""
    ordered = sorted(cameras, key=lambda camera: "D405" in camera.model)
    names = [NAMES[k] if k < len(NAMES) else f"camera{k + 1}" for k in range(len(ordered))]
    lines = [f'    {name}: {{serial: "{camera.serial}"}}' for name, camera in zip(names, ordered, strict=True)]
    return "\n".join(["nodes:", "  realsense:", f"    cameras: [{', '.join(names)}]", *lines])


def recorded(context: Any, file: Path) -> FoundCamera:
    """The camera of a recording. Raises FileNotFoundError, or ValueError when the file is not one."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no recording {file}; `file` names a .bag or .db3 of a RealSense camera")
    try:
        context.unload_device(str(file))  # where it was played before
        return list_devices([context.load_device(str(file))])[0]
    except RuntimeError as error:
        raise ValueError(f"{file} is not a recording of a RealSense camera: {_line(error)}") from None


# Reading


FARTHEST: Final = 16.0
"""Librealsense's threshold goes no farther, m."""


@dataclass(frozen=True)
class Settings:
    """How a camera is to run. A visual preset of "" and an emitter of None leave things as the camera has them.

    width, height: pixels; rate: frames/s; nearest, farthest: m, between which depth is believed. exposure: of colour,
    us, white_balance: K; 0: automatic. emitter: whether the pattern is projected.
    """

    width: int = 0
    height: int = 0
    rate: int = 0
    nearest: float = 0.0
    farthest: float = FARTHEST
    visual_preset: str = ""
    exposure: int = 0
    white_balance: int = 0
    emitter: bool | None = None


class CameraFrame:
    """One colour picture, or (is_new false) the depth of the one before, which came after it.

    number: the camera's own count of colour frames. taken: middle of its exposure by the camera's clock, s; is_global:
    whether that is librealsense's global time.
    """

    def __init__(self, frames: Any, is_new: bool, has_depth: bool, align: Any, threshold: Any) -> None:
        rs = import_pyrealsense2()
        color = frames.get_color_frame()
        self._frames, self._align, self._threshold = frames, align, threshold
        self.is_new, self.has_depth = is_new, has_depth
        self.number = int(color.frame_number)
        self.taken = color.timestamp / 1e3 - _exposure_to_readout(color)
        self.is_global = color.frame_timestamp_domain != rs.timestamp_domain.hardware_clock

    def metadata(self) -> dict[str, float | str]:
        """What the camera says of the colour picture, as realsense-ros publishes it."""
        color = self._frames.get_color_frame()
        said = {
            kind.name: color.get_frame_metadata(kind)
            for kind in import_pyrealsense2().frame_metadata_value.__members__.values()
            if color.supports_frame_metadata(kind)
        }
        domain = color.frame_timestamp_domain.name
        return said | {"frame_number": self.number, "clock_domain": domain, "frame_timestamp": color.timestamp}

    @property
    def color(self) -> np.ndarray:
        """Colour, uint8 [H, W, 3] RGB."""
        frame = self._frames.get_color_frame()
        pixels = np.asanyarray(frame.get_data())
        return pixels[:, :, ::-1] if frame.profile.format() == import_pyrealsense2().format.bgr8 else pixels

    def aligned_depth(self) -> np.ndarray:
        """Depth in the colour picture's pixels, uint16 [H, W] mm, 0 where it is not known."""
        near = self._threshold.process(self._frames).as_frameset()
        depth = self._align.process(near).get_depth_frame()
        millimetres = np.asanyarray(depth.get_data()) * (depth.get_units() * 1e3)
        return np.where(millimetres < 65535.5, np.round(millimetres), 0).astype(np.uint16)


def _exposure_to_readout(color: Any) -> float:
    """Seconds from the middle of the exposure to what librealsense calls the frame's time; 0 if it is not said."""
    kinds = import_pyrealsense2().frame_metadata_value
    if color.supports_frame_metadata(kinds.frame_timestamp) and color.supports_frame_metadata(kinds.sensor_timestamp):
        readout, exposure = map(color.get_frame_metadata, (kinds.frame_timestamp, kinds.sensor_timestamp))
        between = float(readout - exposure) * 1e-6
        return between if 0.0 <= between < 0.5 else 0.0  # the counters go round every 71 minutes
    return 0.0


_RADIAL: Final = ("none", "brown_conrady", "inverse_brown_conrady", "modified_brown_conrady")
"""Models that are plumb_bob: librealsense projects by all of them with the same terms, to 0.03 px (a test holds it)."""


def distortion_model(intrinsics: Any) -> tuple[str, tuple[float, ...]]:
    """What CameraInfo calls librealsense's distortion, and its coefficients. Raises ValueError for unknown ones."""
    if intrinsics.model.name in _RADIAL:
        return "plumb_bob", tuple(0.0 if intrinsics.model.name == "none" else c for c in intrinsics.coeffs)
    if intrinsics.model.name == "kannala_brandt4":
        return "equidistant", tuple(intrinsics.coeffs[:4])
    raise ValueError(f"CameraInfo has no name for the distortion {intrinsics.model.name}")


def _intrinsics(color: Any, settings: Settings) -> CameraIntrinsics:
    """Those of a colour stream, which must be one that we can read (ValueError)."""
    formats = import_pyrealsense2().format
    if color.format() not in (formats.rgb8, formats.bgr8):
        raise ValueError(f"colour comes as {color.format().name}; record it as RGB8")
    k = color.get_intrinsics()
    model, distortion = distortion_model(k)
    return CameraIntrinsics(
        k.width, k.height, k.fx, k.fy, k.ppx, k.ppy, settings.nearest, settings.farthest, model, distortion
    )


class RealSense:
    """A camera that runs, colour and depth. Not for several threads at once."""

    def __init__(self, camera: FoundCamera, settings: Settings) -> None:
        """Start it. Raises ValueError when it cannot do what is asked, and RuntimeError when it does not answer."""
        rs = import_pyrealsense2()
        self.camera = camera
        self._set_options(settings)
        self._pipeline = rs.pipeline()
        self._pipeline.set_device(camera.device)
        video = self._start(settings).get_stream(rs.stream.color).as_video_stream_profile()
        try:
            self.intrinsics = _intrinsics(video, settings)
        except ValueError:
            self.close()
            raise
        self._align = rs.align(rs.stream.color)
        self._threshold = rs.threshold_filter(settings.nearest, settings.farthest)
        self._tolerance = 0.5e3 / video.fps()  # ms: colour and depth of one moment are less than half a period apart
        self._color, self._depth = -1, -1  # the last frames that were given out, and for which depth was

    def _start(self, settings: Settings) -> Any:
        rs, config = import_pyrealsense2(), import_pyrealsense2().config()
        if self.camera.device.is_playback():
            config.enable_stream(rs.stream.color)
            config.enable_stream(rs.stream.depth)
        else:
            size = settings.width, settings.height
            config.enable_stream(rs.stream.color, *size, rs.format.rgb8, settings.rate)
            config.enable_stream(rs.stream.depth, *size, rs.format.z16, settings.rate)
        try:
            return self._pipeline.start(config)
        except RuntimeError as error:
            if "resolve" not in str(error):
                raise
            slow = "; it hangs on USB 2: plug it into USB 3" if self.camera.is_slow else ""
            raise ValueError(
                f"{self.camera} does not offer {settings.width}x{settings.height} at {settings.rate} frames/s "
                f"in colour and depth{slow}; it offers {self._offers()}"
            ) from None

    def _offers(self) -> str:
        """Sizes and rates that both colour and depth have."""
        rs = import_pyrealsense2()
        offers: dict[Any, set[tuple[int, int, int]]] = {rs.stream.color: set(), rs.stream.depth: set()}
        for profile in (p for s in self.camera.device.query_sensors() for p in s.get_stream_profiles()):
            if profile.stream_type() in offers:
                video = profile.as_video_stream_profile()
                offers[profile.stream_type()].add((video.width(), video.height(), video.fps()))
        both = sorted(offers[rs.stream.color] & offers[rs.stream.depth])
        return ", ".join(f"{w}x{h}@{rate}" for w, h, rate in both) or "no size and rate in both"

    def _set_options(self, settings: Settings) -> None:
        rs = import_pyrealsense2()
        if self.camera.device.is_playback():
            return
        depth, color = self._sensor(rs.stream.depth), self._sensor(rs.stream.color)
        if settings.visual_preset and depth.supports(rs.option.visual_preset):
            presets = rs.rs400_visual_preset.__members__
            if settings.visual_preset not in presets:
                raise ValueError(
                    f"there is no depth preset {settings.visual_preset!r}; choose one of {', '.join(presets)}"
                )
            self._set(depth, "visual_preset", float(int(presets[settings.visual_preset])))
        if settings.emitter is not None:
            self._set(depth, "emitter_enabled", float(settings.emitter))
        self._set_or_automatic(color, "exposure", settings.exposure)
        self._set_or_automatic(color, "white_balance", settings.white_balance)

    def _sensor(self, stream: Any) -> Any:
        for sensor in self.camera.device.query_sensors():
            if any(profile.stream_type() == stream for profile in sensor.get_stream_profiles()):
                return sensor
        raise ValueError(f"{self.camera} has no {stream.name} stream")

    def _set_or_automatic(self, sensor: Any, name: str, value: int) -> None:
        """A camera keeps what was set before, so automatic has to be said too."""
        automatic = getattr(import_pyrealsense2().option, f"enable_auto_{name}")
        if value:
            self._set(sensor, automatic.name, 0.0)
            self._set(sensor, name, float(value))
        elif sensor.supports(automatic):
            sensor.set_option(automatic, 1.0)

    def _set(self, sensor: Any, name: str, value: float) -> None:
        option = getattr(import_pyrealsense2().option, name)
        if not sensor.supports(option):
            raise ValueError(f"{self.camera} has no option {name}; leave it as it is")
        allowed = sensor.get_option_range(option)
        if not allowed.min <= value <= allowed.max:
            raise ValueError(f"{name} of {self.camera} goes from {allowed.min:g} to {allowed.max:g}, not {value:g}")
        sensor.set_option(option, value)

    def read(self, patience: float) -> CameraFrame | None:
        """The next picture; None when none came within `patience` s. Raises RuntimeError when the camera is gone."""
        deadline = monotonic() + patience
        while (left := deadline - monotonic()) > 0.0:
            came, frames = self._pipeline.try_wait_for_frames(int(left * 1e3) + 1)
            if came and (picture := self._news(frames.as_frameset())) is not None:
                return picture
        return None

    def _news(self, frames: Any) -> CameraFrame | None:
        """What these frames add. The library repeats a frame of one stream beside a new one of the other."""
        color, depth = frames.get_color_frame(), frames.get_depth_frame()
        if not color:
            return None
        number = int(color.frame_number)
        has_depth = bool(depth) and abs(depth.timestamp - color.timestamp) <= self._tolerance
        is_new, adds_depth = number != self._color, has_depth and number != self._depth
        if not is_new and not adds_depth:
            return None
        self._color = number
        self._depth = number if has_depth else self._depth
        return CameraFrame(frames, is_new, has_depth, self._align, self._threshold)

    def close(self) -> None:
        """Stop it; one that was unplugged too."""
        with contextlib.suppress(RuntimeError):
            self._pipeline.stop()


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
