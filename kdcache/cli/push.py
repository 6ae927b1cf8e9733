"""`kdcache push`."""

import sys

import click

from kdcache.cli.options import Settings
from kdcache.cli.screen import Command
from kdcache.console.tables import count
from kdcache.errors import UsageError
from kdcache.export.push_config import PushConfig


@click.command("push", cls=Command)
@Settings(PushConfig)
@click.option("--yes", is_flag=True, help="Upload without asking.")
def push(config: PushConfig, yes: bool) -> None:
    """Upload a teacher, student or cache to the Hugging Face hub.

    The repository is private unless it exists or --public is given. Only the files of the model or cache go, and
    nothing that tells of this machine.

    \b
    Example:
      kdcache push student me/de-en-small
    """
    from kdcache.export import push_folder

    upload = push_folder.gather(config)
    where = f"{upload.kind} {config.repo}, {'public' if config.public else 'private'} where it is new"
    click.echo(
        f"{count(len(upload.files), 'file')}, {upload.bytes / 1e6:,.1f} MB, to the {where}. {upload.warning}", err=True
    )
    if "README.md" not in upload.files:
        click.echo("It has no model card (README.md); models trained with this version have one.", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nobody can be asked here. Give --yes to upload all the same.")
        click.confirm("Upload?", abort=True, err=True)
    click.echo(push_folder.push(config, upload))
