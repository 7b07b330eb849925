"""`starburst cache`: lists and clears the caches of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from starburst_executor.cli.groups import CommandGroup
from starburst_executor.cli.options import DURATION, examples, json_option, store_option, stores_of
from starburst_executor.cli.render import age, say, show_json, show_table
from starburst_executor.client.opening import FIRST_PATIENCE_S
from starburst_executor.client.report import amount
from starburst_executor.clock import SystemClock
from starburst_executor.session.cache import cache_sizes
from starburst_executor.session.cache import clear as clear_cache
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore

__all__ = ["cache"]


@click.group("cache", cls=CommandGroup)
def cache() -> None:
    """Results that `cached` functions have kept, by the name of their cache."""


@contextmanager
def _opened(url: str) -> Iterator[PatientStore]:
    with closing(PatientStore(open_store(url), SystemClock(), patience_s=FIRST_PATIENCE_S)) as store:
        yield store


@cache.command("ls", epilog=examples("starburst cache ls", "starburst cache ls --store s3://bucket/team --json"))
@store_option
@json_option
def list_caches(store: str | None, as_json: bool) -> None:
    """List the caches of a store, with the number, size and age of their entries. Needs no key."""
    now = SystemClock().now()
    found = []
    for url in stores_of(store):
        with _opened(url) as opened:
            found += [(url, size) for size in cache_sizes(opened)]
    if as_json:
        for url, size in found:
            show_json(store=url, **size._asdict())
        return
    if not found:
        say("no caches")
        return
    rows = [
        [
            size.name,
            f"{size.n_entries:,}",
            f"{size.n_bytes:,}",
            age(now - size.newest_at),
            age(now - size.oldest_at),
            url,
        ]
        for url, size in found
    ]
    show_table(["cache", "entries", "bytes", "newest", "oldest", "store"], rows)


@cache.command(
    "clear", epilog=examples("starburst cache clear features", "starburst cache clear features --older-than 30d")
)
@click.argument("name")
@store_option
@click.option("--older-than", type=DURATION, metavar="AGE", help="Only entries written longer ago than this: 12h, 30d.")
def clear(name: str, store: str | None, older_than: float | None) -> None:
    """Delete the entries of a cache. Calls whose results are deleted run again when they are next submitted."""
    before = None if older_than is None else SystemClock().now() - older_than
    n_deleted = 0
    for url in stores_of(store):
        with _opened(url) as opened:
            n_deleted += clear_cache(opened, name, before=before)
    click.echo(f"deleted {amount(n_deleted, 'entry')} of {name}")
