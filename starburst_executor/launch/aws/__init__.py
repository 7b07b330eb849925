"""Workers that Amazon ECS or AWS Batch starts."""
