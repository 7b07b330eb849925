"""Sets up and inspects an AWS account: the stack, its images, keys, quotas, prices and logs.

Imported on demand: a session with a local launcher imports none of these modules.
"""
