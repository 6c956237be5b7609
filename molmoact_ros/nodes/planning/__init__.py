"""Parts of the policy nodes: inference, approval, the execute action, plan topics."""
