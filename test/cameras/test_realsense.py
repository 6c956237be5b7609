"""The library's own pipeline, syncer and align on synthetic images: what goes in comes out, where it belongs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyrealsense2 as rs
import pytest

from molmoact_ros.cameras.presets import PRESETS, preset_of
from molmoact_ros.cameras.realsense import (
    CameraFrame,
    FoundCamera,
    RealSense,
    Settings,
    list_devices,
    recorded,
    select_device,
)

from .software_camera import (
    BOX,
    COLOR_K,
    CORNERS,
    DISTORTION,
    HEIGHT,
    RATE,
    WALL,
    WIDTH,
    SoftwareCamera,
    color_picture,
    project,
)  # fmt: skip

SETTINGS = Settings(width=WIDTH, height=HEIGHT, rate=RATE, nearest=0.2, farthest=3.0)
RECORDING = Path(__file__).parent / "recording.bag"  # of a SoftwareCamera of 80x60, by pyrealsense2 2.56.5


def opened(camera: SoftwareCamera, settings: Settings = SETTINGS) -> RealSense:
    return RealSense(list_devices([camera.device])[0], settings)


def shot(camera: SoftwareCamera, running: RealSense) -> CameraFrame:
    camera.shoot()
    picture = running.read(5.0)
    assert picture is not None
    return picture


def test_pixels_intrinsics_and_numbers_come_out_as_they_went_in() -> None:
    camera = SoftwareCamera("1")
    running = opened(camera)
    for _ in range(3):
        picture = shot(camera, running)
        assert picture.is_new and picture.has_depth and picture.number == camera.number
        np.testing.assert_array_equal(picture.color, color_picture(camera.number))
        assert abs(picture.taken - (camera.taken[camera.number] - camera.zero)) < 1e-6 and not picture.is_global
    k = running.intrinsics
    assert (k.width, k.height, k.model) == (WIDTH, HEIGHT, "plumb_bob")
    np.testing.assert_allclose([k.fx, k.fy, k.cx, k.cy], COLOR_K[[0, 1, 0, 1], [0, 1, 2, 2]], atol=1e-4)
    np.testing.assert_allclose(k.distortion, DISTORTION, atol=1e-7)
    assert running.read(0.05) is None, "no image is given out twice"
    running.close()


def test_depth_lies_where_the_colour_camera_sees_it() -> None:
    camera = SoftwareCamera("1")
    running = opened(camera)
    depth = shot(camera, running).aligned_depth()
    running.close()
    assert depth.dtype == np.uint16 and set(np.unique(depth)) <= {0, round(BOX * 1e3), round(WALL * 1e3)}
    box = depth == round(BOX * 1e3)
    (left, top), (right, bottom) = project(CORNERS)
    rows, columns = np.nonzero(box)
    # The depth camera's pixels are 1.6 times as wide, so an edge is known to one of them.
    assert np.abs([columns.min() - left, columns.max() - right, rows.min() - top, rows.max() - bottom]).max() < 1.7
    assert box[round(top) + 3 : round(bottom) - 3, round(left) + 3 : round(right) - 3].mean() > 0.98
    outside = np.ones_like(box)
    outside[round(top) - 3 : round(bottom) + 3, round(left) - 3 : round(right) + 3] = False
    assert (depth[outside] == round(WALL * 1e3)).mean() > 0.9 and not box[outside].any()


def test_depth_out_of_range_is_not_known() -> None:
    camera = SoftwareCamera("1")
    running = opened(camera, Settings(width=WIDTH, height=HEIGHT, rate=RATE, nearest=0.2, farthest=1.0))
    assert set(np.unique(shot(camera, running).aligned_depth())) == {0, round(BOX * 1e3)}
    running.close()


def test_depth_of_another_moment_is_not_taken_for_this_ones() -> None:
    camera = SoftwareCamera("1")
    running = opened(camera)
    assert shot(camera, running).has_depth
    time.sleep(1.5 / RATE)
    camera.shoot(depth=False)
    picture = running.read(1.0)
    assert picture is not None and picture.number == 2 and not picture.has_depth
    camera.shoot()
    picture = running.read(1.0)
    assert picture is not None and picture.number == 3
    running.close()


def test_the_time_is_that_of_the_middle_of_the_exposure() -> None:
    camera = SoftwareCamera("1")
    camera.color.set_metadata(rs.frame_metadata_value.frame_timestamp, 5_020_000)
    camera.color.set_metadata(rs.frame_metadata_value.sensor_timestamp, 5_008_000)
    running = opened(camera)
    picture = shot(camera, running)
    assert abs(camera.taken[1] - camera.zero - picture.taken - 0.012) < 1e-6
    assert picture.metadata()["sensor_timestamp"] == 5_008_000
    running.close()


def test_options_are_set_and_wrong_ones_are_refused() -> None:
    camera = SoftwareCamera("1")
    opened(camera, Settings(WIDTH, HEIGHT, RATE, exposure=500, visual_preset="high_density")).close()
    assert camera.color.get_option(rs.option.exposure) == 500
    assert camera.color.get_option(rs.option.enable_auto_exposure) == 0
    opened(camera).close()
    assert camera.color.get_option(rs.option.enable_auto_exposure) == 1, "as it was before"
    assert camera.depth.get_option(rs.option.visual_preset) == int(rs.rs400_visual_preset.high_density)
    for settings, text in (
        (Settings(WIDTH, HEIGHT, RATE, exposure=50_000), "exposure of 1 .* goes from 1 to 10000, not 50000"),
        (Settings(WIDTH, HEIGHT, RATE, emitter=True), "no option emitter_enabled"),
        (Settings(WIDTH, HEIGHT, RATE, visual_preset="best"), "no depth preset 'best'; .*high_density"),
        (Settings(1280, 720, 30), f"does not offer 1280x720 at 30 .* it offers {WIDTH}x{HEIGHT}@{RATE}"),
    ):
        with pytest.raises(ValueError, match=text):
            opened(camera, settings)
    slow = SoftwareCamera("1", usb="2.1")
    with pytest.raises(ValueError, match="plug it into USB 3"):
        opened(slow, Settings(1280, 720, 30))


def test_a_camera_is_chosen_by_serial_number_or_model() -> None:
    names = {"1": "Intel RealSense D435I", "2": "Intel RealSense D405", "3": "Intel RealSense D405"}
    cameras = list_devices([SoftwareCamera(serial, name).device for serial, name in names.items()])
    assert select_device(cameras, "2", "").serial == "2"
    assert select_device(cameras, "", "D435").serial == "1"
    assert select_device(cameras, "1", "D455").serial == "1", "one that has no preset takes another's"
    with pytest.raises(LookupError, match="several cameras fit.*2 .Intel RealSense D405, USB 3.2.*3 "):
        select_device(cameras, "", "d405")
    with pytest.raises(LookupError, match=r"no camera 9 is plugged in; those that are: 1 \(Intel RealSense D435I"):
        select_device(cameras, "9", "")
    with pytest.raises(LookupError, match="no D455 is plugged in; those that are: none"):
        select_device([], "", "D455")


def test_presets_are_found_by_the_cameras_name() -> None:
    assert preset_of("Intel RealSense D435I") is PRESETS["D435"]
    assert preset_of("d405") is PRESETS["D405"]
    with pytest.raises(ValueError, match="T265"):
        preset_of("Intel RealSense T265")
    known = rs.rs400_visual_preset.__members__
    assert all(preset.visual_preset in known for preset in PRESETS.values())


def test_a_recording_is_a_camera_that_can_be_played_again() -> None:
    context = rs.context()
    for _ in range(2):
        camera: FoundCamera = recorded(context, RECORDING)
        assert camera.serial == "777"
        running = RealSense(camera, Settings(nearest=0.2, farthest=3.0))
        picture = running.read(5.0)
        assert picture is not None
        height, width = picture.color.shape[:2]
        np.testing.assert_array_equal(picture.color, color_picture(picture.number)[:height, :width])
        while picture is not None and not picture.has_depth:
            picture = running.read(5.0)
        assert picture is not None and round(WALL * 1e3) in picture.aligned_depth()
        running.close()


def test_what_the_library_records_now_is_played_too(tmp_path: Path) -> None:
    camera, file = SoftwareCamera("5"), tmp_path / "new.db3"
    pipeline, config = rs.pipeline(), rs.config()
    pipeline.set_device(camera.device)
    config.enable_stream(rs.stream.color, WIDTH, HEIGHT, rs.format.rgb8, RATE)
    config.enable_stream(rs.stream.depth, WIDTH, HEIGHT, rs.format.z16, RATE)
    config.enable_record_to_file(str(file))
    pipeline.start(config)
    passed_on = 0
    while passed_on < 5:  # the recorder drops what a busy machine has not passed on before the end
        camera.shoot()
        passed_on += pipeline.try_wait_for_frames(1000)[0]
        time.sleep(1 / RATE)
    pipeline.stop()
    running = RealSense(recorded(rs.context(), file), Settings(nearest=0.2, farthest=3.0))
    picture = running.read(5.0)
    assert picture is not None
    np.testing.assert_array_equal(picture.color, color_picture(picture.number))
    np.testing.assert_allclose(running.intrinsics.distortion, DISTORTION, atol=1e-7)
    running.close()


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recording"):
        recorded(rs.context(), tmp_path / "none.bag")
    broken = tmp_path / "broken.bag"
    broken.write_bytes(b"#ROSBAG V2.0\n" + bytes(500))
    with pytest.raises(ValueError, match="broken.bag is not a recording"):
        recorded(rs.context(), broken)
