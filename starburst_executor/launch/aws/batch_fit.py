"""Whether the Batch queues of a stack can run what a user asks for: which queue it is, and what its instances have."""

from __future__ import annotations

from starburst_executor.aws.machines import BATCH_CHOICE, describe_types
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.batch import Batch
from starburst_executor.launch.aws.ec2_hosts import Machine
from starburst_executor.launch.aws.remote import Account

__all__ = ["check_share", "queue_of", "refuse_what_no_instance_runs"]


def queue_of(options: Batch, account: Account, *, spot: bool) -> str:
    """Return a job queue. Raises: ConfigError if the stack has none; LaunchError. CloudFormation: 1, once."""
    stack = account.stack
    queue = {
        ("fargate", False): stack.batch_fargate_queue,
        ("fargate", True): stack.batch_fargate_spot_queue,
        ("ec2", False): stack.batch_ec2_queue,
        ("ec2", True): stack.batch_ec2_spot_queue,
    }[options.on, spot]
    if queue is None:
        raise ConfigError(
            f"the stack {stack.name!r} has no Batch queue for on={options.on!r}, spot={spot}: run `starburst "
            "setup --batch`, or use Fargate(...)"
        )
    return queue


def check_share(options: Batch, account: Account) -> None:
    """Refuse a share or a priority for queues that do not share fairly. Raises: ConfigError."""
    if (options.share or options.priority) and not account.stack.batch_shares_fairly:
        option = f"share={options.share!r}" if options.share else f"priority={options.priority}"
        raise ConfigError(
            f"{option} (an argument): the Batch queues of the stack {account.stack.name!r} have no fair share: leave it "
            "out, or set up queues that have it with `starburst setup --fair-share`"
        )


def refuse_what_no_instance_runs(options: Batch, account: Account) -> None:
    """Refuse a job that fits on none of the stack's instances and would wait forever. Raises: ConfigError, LaunchError. EC2: 1."""
    stack, size = account.stack, options.size
    types = ", ".join(stack.batch_instance_types)
    has = f"in the stack {stack.name!r} Batch starts {types}"
    if stack.batch_arch not in (None, options.arch):
        example = "c7g" if options.arch == "arm64" else BATCH_CHOICE
        raise ConfigError(
            f"arch={options.arch!r} (an argument): {has}, which is {stack.batch_arch}; add instances for it with `starburst "
            f"setup --batch-instance-type {example}`, or name another stack"
        )
    if options.gpus and stack.batch_arch and not stack.batch_has_gpus:
        raise ConfigError(
            f"gpus={options.gpus} (an argument): {has}, which has no GPUs; add instances with GPUs with `starburst setup "
            "--batch-instance-type g5`, or name another stack"
        )
    most = stack.batch_most_vcpus
    if most is not None and size.vcpu > most:
        raise ConfigError(
            f"cpu={size.vcpu:g} (an argument): in the stack {stack.name!r} Batch runs at most {most} vCPUs; change "
            f"it with `starburst setup --batch-most-vcpus {size.vcpu:.0f}`"
        )
    chosen = [name for name in stack.batch_instance_types if name != BATCH_CHOICE]
    if not chosen or len(chosen) < len(stack.batch_instance_types):
        return
    machines = [Machine.of(record) for record in describe_types(account.clients, chosen)]
    if not any(
        machine.vcpus >= size.vcpu and machine.usable_mib >= size.mib and machine.gpus >= options.gpus
        for machine in machines
    ):
        most_of_each = Machine(*(max(machine[i] for machine in machines) for i in range(len(Machine._fields))))
        raise ConfigError(
            f"cpu={size.vcpu:g}, memory={size.mib} MiB, gpus={options.gpus} (arguments): {has}, none of which is "
            f"large enough: at most {most_of_each.vcpus} vCPUs, {most_of_each.usable_mib} MiB for a job and "
            f"{most_of_each.gpus} GPUs; set up larger ones with `starburst setup --batch-instance-type TYPE`"
        )
