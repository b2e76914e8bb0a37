"""The command `registry-push`: parses the options, runs the push or the proxy, returns the exit code (docs/push.md)."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from registry_push import __version__
from registry_push.authentication import Authentication
from registry_push.cache import DEFAULT_LIMIT, Cache, default_folder
from registry_push.client import Client, new_http
from registry_push.compression import Compression
from registry_push.credentials import Credentials, find
from registry_push.failures import Failure, Misused
from registry_push.progress import Report, new_report
from registry_push.proxy import Proxy
from registry_push.proxy_guard import Guard
from registry_push.pusher import Pusher
from registry_push.references import Registry, parse_registry, parse_target
from registry_push.retries import Retries
from registry_push.sessions import ChunkSizes
from registry_push.sources import Loader, check_source
from registry_push.token_servers import TokenServers

INTERRUPTED = 130  # the exit code that shells give a program that Ctrl-C ended
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}
_PUSH_EXAMPLES = """\
examples:
  # an image of the docker daemon
  registry-push r.example.com/team/app:1
  # an image of podman, to another name
  registry-push app:1 --from podman --to r.example.com/app:1
  # an archive that `docker save` wrote
  registry-push app:1 --from docker-archive:FILE --to r.example.com/app:1
  # an OCI layout
  registry-push app:1 --from oci:DIR --to r.example.com/app:1
  # log in without docker
  registry-push r.example.com/app:1 --username me --password-stdin < file

`registry-push proxy` does this for docker push and other clients;
see registry-push proxy --help.
"""
_PROXY_EXAMPLES = """\
example:
  registry-push proxy --to https://registry.example.com
  # in another terminal:
  docker login localhost:5000
  docker push localhost:5000/team/app:1
"""
_LEVELS = {"gzip": (1, 9, 6), "zstd": (1, 22, 3)}  # lowest, highest, usual


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit codes: 0 done, 1 failed, 2 invalid usage, 3 no access, 4 not reachable, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    is_proxy = given[:1] == ["proxy"]
    options = (_proxy_parser().parse_args(given[1:])) if is_proxy else _push_parser().parse_args(given)
    report = new_report(as_json=not is_proxy and options.json)
    try:
        asyncio.run(_proxy(options, report) if is_proxy else _push(options, report))
    except KeyboardInterrupt:
        report.fail("the proxy was stopped" if is_proxy else "interrupted; run the same command to resume", INTERRUPTED)
        return INTERRUPTED
    except Failure as failure:
        report.fail(str(failure), failure.exit_code)
        return failure.exit_code
    except OSError as error:
        report.fail(str(error), Failure.exit_code)
        return Failure.exit_code
    finally:
        report.close()
    return 0


def _push_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="registry-push",
        description="Push an image in chunks, so that large layers pass small request limits.",
        epilog=_PUSH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "image", metavar="IMAGE[:TAG]", help="the image to push; without --to also the target, as in docker push"
    )
    parser.add_argument(
        "--from",
        dest="source",
        default="docker",
        metavar="SOURCE",
        help="where the image is: docker (the default), podman, oci:DIR, docker-archive:FILE or oci-archive:FILE",
    )
    parser.add_argument("--to", metavar="HOST/REPOSITORY[:TAG]", help="the target, if it is not IMAGE itself")
    parser.add_argument(
        "--mount-from",
        action="append",
        default=[],
        metavar="REPOSITORY",
        help="mount layers of this repository of the same registry instead of uploading them; may be repeated",
    )
    parser.add_argument(
        "--compression",
        choices=tuple(_LEVELS),
        default="gzip",
        help="for uncompressed layers: gzip (the default) or zstd",
    )
    parser.add_argument("--level", type=int, help="compression level; gzip: 1 to 9 (6), zstd: 1 to 22 (3)")
    parser.add_argument("--jobs", type=_positive, default=4, metavar="N", help="blobs pushed at the same time (4)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder for compressed layers (~/.cache/registry-push)"
    )
    parser.add_argument("--cache-limit", type=_size, default=DEFAULT_LIMIT, metavar="SIZE", help="its size (20Gi)")
    parser.add_argument(
        "--dry-run", action="store_true", help="read and compress the image, and print what would be pushed"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of text")
    _common(parser)
    return parser


def _proxy_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="registry-push proxy",
        description="Run a local registry that forwards requests to another registry,\nand pushes to it in chunks.",
        epilog=_PROXY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", default="127.0.0.1:5000", metavar="ADDRESS:PORT", help="127.0.0.1:5000 by default")
    parser.add_argument("--to", required=True, metavar="URL", help="the registry, such as https://registry.example.com")
    parser.add_argument("--log-in", action="store_true", help="use this machine's credentials for requests without any")
    parser.add_argument(
        "--host",
        type=_host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name of the proxy for clients, such as host.docker.internal; may be repeated",
    )
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chunk-size", type=_size, metavar="SIZE", help="such as 16MB or 16MiB; by default the registry decides"
    )
    parser.add_argument(
        "--retries", type=_positive, default=8, metavar="N", help="tries without progress before giving up (8)"
    )
    parser.add_argument("--username", help="with --password-stdin: instead of docker's or podman's credentials")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument(
        "--token-server",
        action="append",
        default=[],
        metavar="HOST",
        help="trust this token server with the registry's password; may be repeated",
    )
    parser.add_argument("--insecure", action="store_true", help="allow plain HTTP to other machines")
    parser.add_argument("--version", action="version", version=f"registry-push {__version__}")
    parser.add_argument("--verbose", action="store_true", help="print every request, without secrets")


async def _push(options: argparse.Namespace, report: Report) -> None:
    target = parse_target(options.to or options.image, insecure=options.insecure)
    check_source(options.source)
    compression = _compression(options)
    credentials = _credentials(options, target.registry.host, target.repository)
    scopes = [f"repository:{target.repository}:pull,push"]
    scopes += [f"repository:{source}:pull" for source in options.mount_from]
    with closing(Cache(options.cache or default_folder(os.environ), options.cache_limit)) as cache:
        async with new_http() as http:
            authentication = Authentication(http, credentials, scopes, _token_servers(options, target.registry))
            retries = Retries(options.retries, say=report.say)
            client = Client(http, target.registry.origin, authentication, retries, _wire(options, report))
            pusher = Pusher(
                client=client,
                target=target,
                cache=cache,
                report=report,
                sizes=ChunkSizes(options.chunk_size),
                jobs=options.jobs,
                mount_from=options.mount_from,
                dry_run=options.dry_run,
            )
            # First, because reading and compressing a large image takes minutes.
            await pusher.check()
            image = await asyncio.to_thread(Loader(cache, compression, report).load, options.source, options.image)
            digest = await pusher.push(image)
        cache.trim()
    report.result(str(target), digest, {**asdict(pusher.counts), "dry_run": options.dry_run})


async def _proxy(options: argparse.Namespace, report: Report) -> None:
    registry = parse_registry(options.to, insecure=options.insecure)
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdigit():
        raise Misused(f"--listen {options.listen}: pass an address and a port, such as 127.0.0.1:5000")
    log_in = options.log_in or options.username is not None
    credentials = _credentials(options, registry.host, "") if log_in else None
    if log_in and credentials is None:
        raise Misused(
            f"no credentials for {registry.host}: run `docker login {registry.host}`, "
            "or pass --username and --password-stdin"
        )
    async with new_http() as http:
        proxy = Proxy(
            http=http,
            guard=Guard(host.strip("[]"), frozenset(options.host)),
            token_servers=_token_servers(options, registry),
            credentials=credentials,
            sizes=ChunkSizes(options.chunk_size),
            retries=Retries(options.retries, say=report.say),
            say=report.say,
            wire=_wire(options, report),
        )
        await proxy.check()
        await proxy.serve(int(port))


def _token_servers(options: argparse.Namespace, registry: Registry) -> TokenServers:
    return TokenServers(registry, frozenset(each.lower() for each in options.token_server), options.insecure)


def _credentials(options: argparse.Namespace, host: str, repository: str) -> Credentials | None:
    if options.username is None and not options.password_stdin:
        return find(host, repository, os.environ)
    if options.username is None or not options.password_stdin:
        raise Misused("--username and --password-stdin must be used together")
    return Credentials(options.username, sys.stdin.read().rstrip("\r\n"))


def _compression(options: argparse.Namespace) -> Compression:
    lowest, highest, usual = _LEVELS[options.compression]
    level = usual if options.level is None else options.level
    if not lowest <= level <= highest:
        raise Misused(f"--level {level}: {options.compression} has levels {lowest} to {highest}")
    return Compression(options.compression, level)


def _wire(options: argparse.Namespace, report: Report) -> Callable[[str], None]:
    return report.say if options.verbose else lambda line: None


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})\s*([KMG]I?|)B?", text.upper(), re.ASCII)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a size, such as 16MB or 16MiB")
    return int(found[1]) * _UNITS[found[2]]


def _host_name(text: str) -> str:
    if re.fullmatch(r"[a-z0-9_.-]+", text.lower(), re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text} is not a host name; leave out the scheme and the port")
    return text.lower()


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)
