"""What a Franka is: joints and limits."""
