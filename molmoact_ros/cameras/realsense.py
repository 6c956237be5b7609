"""Finds, opens and reads one RealSense camera through librealsense. Recordings (.bag, .db3) work like cameras."""

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
    """Import pyrealsense2. Raises RuntimeError that says what to install if it is missing."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise RuntimeError(
            f"RealSense cameras need pyrealsense2 ({error}); pip install 'molmoact_ros[realsense]' and, "
            "if libusb is missing, apt install libusb-1.0-0"
        ) from None
    return pyrealsense2


# Device discovery


@dataclass(frozen=True)
class FoundCamera:
    """A connected camera. usb: the USB version, such as "3.2" or "2.1"; empty if unknown."""

    serial: str
    model: str
    usb: str
    device: Any = field(repr=False)

    @property
    def is_slow(self) -> bool:
        """Whether it is connected by USB 2, whose bandwidth suffices for small or slow images only."""
        return self.usb.startswith(("1", "2"))

    def __str__(self) -> str:
        usb = f", USB {self.usb}" if self.usb else ""
        return f"{self.serial} ({self.model}{usb})"


def list_devices(devices: Iterable[Any]) -> list[FoundCamera]:
    """Describe librealsense's devices; skip those that do not respond."""
    rs, cameras = import_pyrealsense2(), []
    for device in devices:
        try:
            serial, name, usb = (
                device.get_info(info) if device.supports(info) else ""
                for info in (rs.camera_info.serial_number, rs.camera_info.name, rs.camera_info.usb_type_descriptor)
            )
        except RuntimeError:  # unplugged after it was listed
            continue
        cameras.append(FoundCamera(serial, name, usb, device))
    return cameras


def select_device(cameras: list[FoundCamera], serial: str, model: str) -> FoundCamera:
    """The camera with this serial number; for "", the only one of this model, such as D405 ("": any model).

    Raises LookupError that lists the connected cameras.
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
"""Camera names in the profiles."""


def profile_of(cameras: list[FoundCamera]) -> str:
    """The YAML section of a profile for these cameras. A D405 counts as a wrist camera."""
    ordered = sorted(cameras, key=lambda camera: "D405" in camera.model)
    names = [NAMES[k] if k < len(NAMES) else f"camera{k + 1}" for k in range(len(ordered))]
    lines = [f'    {name}: {{serial: "{camera.serial}"}}' for name, camera in zip(names, ordered, strict=True)]
    return "\n".join(["nodes:", "  realsense:", f"    cameras: [{', '.join(names)}]", *lines])


def recorded(context: Any, file: Path) -> FoundCamera:
    """The camera of a recording. Raises FileNotFoundError, or ValueError if the file is not a recording."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no recording {file}; `file` names a .bag or .db3 of a RealSense camera")
    try:
        context.unload_device(str(file))  # in case it was played before
        return list_devices([context.load_device(str(file))])[0]
    except RuntimeError as error:
        raise ValueError(f"{file} is not a recording of a RealSense camera: {_line(error)}") from None


# Streaming


FARTHEST: Final = 16.0
"""Maximum of librealsense's threshold filter, m."""


@dataclass(frozen=True)
class Settings:
    """Settings of a camera. A visual preset of "" and an emitter of None keep the camera's current setting.

    width, height: pixels. rate: frames/s. nearest, farthest: range of valid depth, m. exposure: of colour, us;
    white_balance: K; 0 is automatic for both. emitter: whether the infrared pattern is projected.
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
    """One colour frame or, if is_new is false, the late depth of the previous colour frame.

    number: the camera's own count of colour frames. taken: middle of the exposure on the camera's clock, s.
    is_global: whether that is librealsense's global time.
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
        """The colour frame's metadata, as realsense-ros publishes it."""
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
        """Depth aligned to the colour image, uint16 [H, W] mm, 0 where invalid."""
        near = self._threshold.process(self._frames).as_frameset()
        depth = self._align.process(near).get_depth_frame()
        millimetres = np.asanyarray(depth.get_data()) * (depth.get_units() * 1e3)
        return np.where(millimetres < 65535.5, np.round(millimetres), 0).astype(np.uint16)


def _exposure_to_readout(color: Any) -> float:
    """Seconds from the middle of the exposure to librealsense's frame timestamp; 0 without metadata."""
    kinds = import_pyrealsense2().frame_metadata_value
    if color.supports_frame_metadata(kinds.frame_timestamp) and color.supports_frame_metadata(kinds.sensor_timestamp):
        readout, exposure = map(color.get_frame_metadata, (kinds.frame_timestamp, kinds.sensor_timestamp))
        between = float(readout - exposure) * 1e-6
        return between if 0.0 <= between < 0.5 else 0.0  # the counters wrap every 71 minutes
    return 0.0


_RADIAL: Final = ("none", "brown_conrady", "inverse_brown_conrady", "modified_brown_conrady")
"""Models equal to plumb_bob: librealsense projects with the same terms for all of them, to 0.03 px (tested)."""


def distortion_model(intrinsics: Any) -> tuple[str, tuple[float, ...]]:
    """The CameraInfo model and coefficients of librealsense's distortion. Raises ValueError for an unknown model."""
    if intrinsics.model.name in _RADIAL:
        return "plumb_bob", tuple(0.0 if intrinsics.model.name == "none" else c for c in intrinsics.coeffs)
    if intrinsics.model.name == "kannala_brandt4":
        return "equidistant", tuple(intrinsics.coeffs[:4])
    raise ValueError(f"CameraInfo has no name for the distortion {intrinsics.model.name}")


def _intrinsics(color: Any, settings: Settings) -> CameraIntrinsics:
    """The intrinsics of a colour stream. Raises ValueError for a pixel format other than RGB8 and BGR8."""
    formats = import_pyrealsense2().format
    if color.format() not in (formats.rgb8, formats.bgr8):
        raise ValueError(f"colour comes as {color.format().name}; record it as RGB8")
    k = color.get_intrinsics()
    model, distortion = distortion_model(k)
    return CameraIntrinsics(
        k.width, k.height, k.fx, k.fy, k.ppx, k.ppy, settings.nearest, settings.farthest, model, distortion
    )


class RealSense:
    """A running camera with colour and depth streams. Not thread-safe.

    Example:
        camera = RealSense(select_device(list_devices(context.query_devices()), "", "D435"), settings)
        frame = camera.read(0.2)  # None after 0.2 s without a frame
        camera.close()
    """

    def __init__(self, camera: FoundCamera, settings: Settings) -> None:
        """Start the streams. Raises ValueError for unsupported settings, RuntimeError for a camera that does not
        respond.
        """
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
        self._tolerance = 0.5e3 / video.fps()  # ms: matching colour and depth frames are less than half a period apart
        self._color, self._depth = -1, -1  # numbers of the last colour frame returned, and of the last one with depth

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
        """Sizes and rates that both colour and depth support."""
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
        """Set a value; 0 sets automatic mode explicitly, since a camera keeps earlier settings."""
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
        """The next frame, or None after `patience` s without one. Raises RuntimeError when the camera is gone."""
        deadline = monotonic() + patience
        while (left := deadline - monotonic()) > 0.0:
            came, frames = self._pipeline.try_wait_for_frames(int(left * 1e3) + 1)
            if came and (picture := self._news(frames.as_frameset())) is not None:
                return picture
        return None

    def _news(self, frames: Any) -> CameraFrame | None:
        """The new part of a frameset, if any. Librealsense repeats one stream's frame beside a new one of the other."""
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

    def reset(self) -> bool:
        """Request a hardware reset, after which the camera leaves USB and comes back within seconds; then `close`.

        False for a recording, and for a device that has no reset or does not respond.
        """
        if self.camera.device.is_playback():
            return False
        try:
            self.camera.device.hardware_reset()
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Stop the streams; also works for an unplugged camera."""
        with contextlib.suppress(RuntimeError):
            self._pipeline.stop()


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
