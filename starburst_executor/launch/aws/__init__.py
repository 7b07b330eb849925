"""Workers as ECS tasks or AWS Batch jobs."""
