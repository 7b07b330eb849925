"""The way of a new user in an AWS account that MiniStack emulates; see docs/explanation/tested.md."""
