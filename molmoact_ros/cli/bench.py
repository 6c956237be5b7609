"""The parts of `molmoact-ros bench`, each in the module that measures it."""

from __future__ import annotations

from typing import Final

from molmoact_ros.cli.commands import Command

ROOFLINE: Final = Command(
    "how near a pass comes to reading its weights once, in bfloat16, fp8 and int4, by a model of any shape with random "
    "weights; and what a step takes with it, beside transformers' generate",
    "molmoact_ros.benchmarks.roofline",
)
PARTS: Final = {
    "engine": Command(
        "a reasoning step, stage by stage, beside transformers' generate", "molmoact_ros.benchmarks.engine_live"
    ),
    "exact": Command(
        "answers with guesses, without, and by torch alone, in closed loop",
        "molmoact_ros.benchmarks.speculation_exactness",
    ),
    "depth": Command(
        "what the depth tokens show of things on the table, from measured depth and by the model",
        "molmoact_ros.benchmarks.depth_tokens",
    ),
    "batch": Command("answers a second to several robots by one engine", "molmoact_ros.benchmarks.throughput"),
    "roofline": ROOFLINE,
    "floor": ROOFLINE,  # its name until 0.1
    "vllm": Command("answers by vLLM and by torch, in closed loop", "molmoact_ros.benchmarks.backend_agreement"),
    "load": Command("time and memory of loading a checkpoint", "molmoact_ros.benchmarks.checkpoint_load"),
    "seams": Command(
        "joining chunks at several latencies, beside the naive way", "molmoact_ros.benchmarks.chunk_seams"
    ),
    "control": Command(
        "jitter of commands on a busy machine, beside rclpy's timer", "molmoact_ros.benchmarks.control_jitter"
    ),
    "faults": Command(
        "every fault that must hold the arm, and how soon it does", "molmoact_ros.benchmarks.fault_injection"
    ),
    "fuzz": Command("nonsense at the controller, its commands checked", "molmoact_ros.benchmarks.fuzz"),
    "teleop": Command("an operator takes over in mid-motion", "molmoact_ros.benchmarks.teleop_takeover"),
    "libfranka": Command(
        "1 kHz to the simulated robot behind libfranka's protocol", "molmoact_ros.benchmarks.libfranka"
    ),
    "record": Command(
        "what a recorder costs the control loop, and what the disk takes", "molmoact_ros.benchmarks.recording"
    ),
    "soak": Command("whether any node's memory grows while tasks are repeated", "molmoact_ros.benchmarks.soak"),
    "harness": Command(
        "vla-eval drives the graph through LIBERO, and its results beside ours", "molmoact_ros.benchmarks.harness"
    ),
    "panel": Command(
        "what panel and recorder cost between camera and command", "molmoact_ros.benchmarks.panel_latency"
    ),
    "steer": Command(
        "strokes drawn in the panel, and how near the hand follows", "molmoact_ros.benchmarks.stroke_following"
    ),
}
