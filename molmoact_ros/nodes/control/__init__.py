"""Parts of the controller node: sinks, grippers, teleoperation inputs, diagnostics."""
