"""What provisions and explains an AWS account: the stack, its images, keys, quotas, prices and logs.

Loaded on demand: a session whose launcher is on this machine imports nothing of it.
"""
