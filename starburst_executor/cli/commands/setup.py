"""`starburst setup`: prepares an AWS account, or changes its stack."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from starburst_executor.cli.options import examples, json_option, stack_options
from starburst_executor.cli.render import show_json
from starburst_executor.clock import SystemClock

if TYPE_CHECKING:
    from starburst_executor.aws.clients import Clients
    from starburst_executor.aws.stack.outputs import Stack

__all__ = ["setup"]

_AT_REST = (
    "While nothing runs, only storage costs money: $0.023 a GB and month in the bucket, $0.10 in the repository, $0.03 for logs. "
    "Each running worker has a public IPv4 address, $0.005 an hour."
)


@click.command(
    epilog=examples(
        "starburst setup",
        "starburst setup --ec2 --instance-type c7i.4xlarge --dry-run",
        "starburst setup --batch --json | jq -r .store",
    )
)
@json_option
@stack_options
@click.option("--ec2/--no-ec2", default=None, help="Create capacity providers of EC2 instances, On-Demand and Spot.")
@click.option(
    "--instance-type",
    "instance_types",
    metavar="TYPE",
    multiple=True,
    help="The types that they start, up to four of one architecture; implies --ec2.  [default: c7g.xlarge]",
)
@click.option("--most-instances", type=click.IntRange(1, 5000), help="Most instances at once.  [default: 100]")
@click.option("--disk-gb", type=click.IntRange(30, 16_000), help="Disk of each instance, also of Batch.  [default: 50]")
@click.option("--batch/--no-batch", default=None, help="Create queues of AWS Batch, on Fargate and EC2.")
@click.option(
    "--batch-instance-type",
    "batch_instance_types",
    metavar="TYPE",
    multiple=True,
    help="The types or families that Batch starts on EC2, of one architecture; implies --batch.  [default: optimal, which is "
    "x86-64 without GPUs]",
)
@click.option("--batch-most-vcpus", type=click.IntRange(1), help="Most vCPUs at once on Batch.  [default: 1000]")
@click.option(
    "--fair-share/--no-fair-share",
    default=None,
    help="Share Batch's capacity fairly between users; implies --batch. Chosen when its queues are created.",
)
@click.option(
    "--codebuild/--no-codebuild",
    default=None,
    help="Create a CodeBuild project that builds images.  [default: codebuild]",
)
@click.option("--shell/--no-shell", default=None, help="Let users open shells in workers: `starburst shell`.")
@click.option("--vpc", metavar="ID", help="An existing VPC, instead of a new one.")
@click.option("--subnet", "subnets", metavar="ID", multiple=True, help="A public subnet of that VPC; two or more.")
@click.option(
    "--private/--no-private",
    default=None,
    help="The subnets are private: no public addresses, with a NAT gateway or endpoints.",
)
@click.option("--session-days", type=click.IntRange(2, 3650), help="Days to keep sessions.  [default: 30]")
@click.option("--log-days", type=int, help="Days to keep log lines.  [default: 30]")
@click.option("--read", "reads", metavar="URL", multiple=True, help="Let workers read your s3://bucket/prefix.")
@click.option(
    "--write",
    "writes",
    metavar="URL",
    multiple=True,
    help="Let workers read, write and delete in your s3://bucket/prefix.",
)
@click.option("--bucket", metavar="NAME", help="An existing bucket, instead of a new one.")
@click.option("--cluster", metavar="ARN", help="An existing ECS cluster, instead of a new one.")
@click.option(
    "--express",
    metavar="ZONE",
    help="A second bucket, in S3 Express One Zone in this zone, with lower latency; none removes it.",
)
@click.option(
    "--worker-policy",
    "worker_policies",
    metavar="ARN",
    multiple=True,
    help="Also attach this policy of yours to workers.",
)
@click.option(
    "--pass-role",
    "pass_roles",
    metavar="ARN",
    multiple=True,
    help="Let users start workers with this role (role=) instead.",
)
@click.option(
    "--secret",
    "secrets",
    metavar="ARN",
    multiple=True,
    help="Let workers be started with this secret, or parameter of SSM, or KMS key of one (secrets=).",
)
@click.option("--permissions-boundary", metavar="ARN", help="The permissions boundary of every role of the stack.")
@click.option("--role-path", metavar="PATH", help="Path of roles and policies, /teams/ours/.")
@click.option("--role-prefix", metavar="TEXT", help="Prefix of the names of roles and policies.")
@click.option("--worker-role", metavar="ARN", help="An existing role for workers.")
@click.option("--execution-role", metavar="ARN", help="An existing role for the start of workers.")
@click.option("--kms-key", metavar="ARN", help="A KMS key that encrypts the bucket, logs and keys of sessions.")
@click.option(
    "--notify",
    metavar="ADDRESS",
    help="An e-mail address to which workers send messages, also with no client there; none removes it.",
)
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="A tag for all resources of the stack.")
@click.option("--dry-run", is_flag=True, help="Print the changes without making them.")
@click.option(
    "--template", "show_template", is_flag=True, help="Print the CloudFormation template, for administrators."
)
def setup(clients: Clients, *, as_json: bool, dry_run: bool, show_template: bool, **wishes: Any) -> None:
    """Set up an AWS account for workers: one CloudFormation stack, and its name in the config file.

    Run it again to change options, after an upgrade, or after an interruption: it changes only differences, and options
    that are not given stay as they were. An option that can be given several times replaces all its earlier values; "none"
    removes the values of --read, --write, --worker-policy, --pass-role and --secret, and from options that name a policy, a role or a
    key. With --json the stack is one object; with --json --dry-run each change is a line.
    """
    from starburst_executor.aws.stack.setup import propose, set_up
    from starburst_executor.aws.stack.template import compact, template
    from starburst_executor.aws.stack.wishes import Wishes

    if show_template:
        click.echo("# Without comments, so that CloudFormation takes it as a text; with them it is in this package, as")
        click.echo("# starburst_executor/aws/stack/template.yaml.")
        click.echo(compact(template()), nl=False)
        return
    # The names of options are the names of `Wishes`.
    wished = Wishes(**wishes)
    clock = SystemClock()
    if dry_run:
        proposed = propose(clients, clock, wished, _say)
        if as_json:
            for change in proposed or ():
                show_json(**dataclasses.asdict(change))
        elif proposed is None:
            click.echo("nothing to change")
        else:
            for change in proposed:
                click.echo(str(change))
        click.echo(_AT_REST, err=True)
        return
    stack = set_up(clients, clock, wished, _say)
    if as_json:
        show_json(store=stack.store_url(), express_store=stack.express_url(), **dataclasses.asdict(stack))
    else:
        _show(stack)
    click.echo(_AT_REST, err=True)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _show(stack: Stack) -> None:
    click.echo(f"stack        {stack.name} in {stack.region}, account {stack.account_id}")
    click.echo(f"store        {stack.store_url()}")
    if (express := stack.express_url()) is not None:
        click.echo(f"             {express}, in S3 Express One Zone: name it with store=")
    click.echo(f"EC2          {', '.join(stack.ec2_instance_types) or 'no: starburst setup --ec2'}")
    on_batch = f"Fargate, and on EC2 {', '.join(stack.batch_instance_types)} ({stack.batch_arch})"
    click.echo(f"Batch        {on_batch if stack.batch_fargate_queue else 'no: starburst setup --batch'}")
    if stack.batch_shares_fairly:
        click.echo("             shared fairly between users: Batch(share=...)")
    click.echo(
        f"messages     {'by SNS: confirm the mail from AWS' if stack.topic_arn else 'no: starburst setup --notify ADDRESS'}"
    )
    click.echo(f"for users    attach the policy {stack.client_policy_arn}")
    if stack.client_options_policy_arn:
        click.echo(f"             and {stack.client_options_policy_arn}")
    click.echo("check it     starburst doctor")
    click.echo("then         starburst image build SCRIPT, for the packages of workers")
