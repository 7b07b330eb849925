"""A small fake of AWS that behaves as its documentation says where moto does not, and runs what it is asked to run.

    server.py      HTTP, the services in one place: ECS, Batch, SSM, Service Quotas, CloudFormation, logs, task metadata
    ecs.py         RunTask and its kin: limits, failures[], tokens, throttles, Spot, stopped reasons
    batch.py       arrays of jobs, with retries
    containers.py  a container is a real process with the container's environment

Time is pressed: what takes Amazon a minute takes a moment here. S3 is the benchmarks' endpoint, or moto's.
"""
