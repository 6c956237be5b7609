"""Read a recorded bag, without ROS: what is in it, and what was planned.

    python examples/5_read_a_bag.py [BAG]

BAG: a folder of rosbag2, or an .mcap or .db3 file; by default the golden bag of the tests.
"""

import sys
from pathlib import Path

from molmoact_ros.bags.bag import BagReader

golden = Path(__file__).resolve().parents[1] / "test" / "golden" / "bags" / "pick"
path = Path(sys.argv[1]) if len(sys.argv) > 1 else golden

with BagReader(path) as bag:
    begin, end = bag.span_ns
    print(f"{path.name}: {(end - begin) * 1e-9:.1f} s")
    for topic, message_type in sorted(bag.topics().items()):
        print(f"  {bag.count(topic):5}  {topic}  ({message_type})")

    # Messages come by time, as bytes; `decode` gives an object with the message's fields, by the bag's own definitions.
    if "/policy/action_chunk" in bag.topics():
        for recorded in bag.messages(["/policy/action_chunk"]):
            chunk = bag.decode(recorded)
            actions = chunk.actions.reshape(chunk.steps, chunk.dimensions)
            moved = " ".join(f"{value:+.3f}" for value in actions[:, :3].sum(axis=0))
            seconds = (recorded.stamp_ns - begin) * 1e-9
            print(f"{seconds:5.2f} s: plan {chunk.plan_id} moves {moved} m, gripper to {actions[-1, -1]:.2f}")
