"""What an account may run, and what that costs."""
