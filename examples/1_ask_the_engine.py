"""Ask the engine one question, without ROS: what would you do with this table?

    python examples/1_ask_the_engine.py ["pick up the blue ball"]

The images come from the simulated workcell; a robot's are arrays of the same kind, uint8 [H, W, 3], front first.
"""

import sys

from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.utils.paths import default_checkpoint, robot_model

# A table with objects on it. The same seed always gives the same scene, and a task that fits it.
scene = sample_scene(7)
cell = Workcell(robot_model())
cell.reset(scene)
front, _depth = cell.render("front")
wrist, _depth = cell.render("wrist")
instruction = sys.argv[1] if len(sys.argv) > 1 else scene.task.instruction

# The nano model on the processor. EngineOptions(device="cuda") and another folder would run a released checkpoint.
engine = open_engine(EngineOptions(), default_checkpoint())

# The answer comes in parts, each as soon as it is complete; the last one has them all.
*_parts, answer = engine.reason(Observation((front, wrist), instruction, stamp=0.0))

print(f"instruction: {instruction}")
print(f"depth tokens, 10 rows of 10 codes in 0..127:\n{answer.depth_codes}")
print(f"trace, x and y in 0..255 of the front image: {answer.trace.tolist()}")
print("actions, each dx, dy, dz in m, droll, dpitch, dyaw in rad, gripper 1 open .. 0 closed:")
for action in answer.actions:
    print("  " + " ".join(f"{value:8.4f}" for value in action))
counts = engine.timings.counts
print(f"{counts.tokens} tokens in {counts.passes} passes of the decoder, {engine.timings.total * 1e3:.0f} ms")
cell.close()
