"""The command `registry-push`: options in, exit code out (docs/push.md)."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

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
from registry_push.sources import Loader
from registry_push.token_servers import TokenServers

INTERRUPTED = 130  # the exit code that shells give a program that Ctrl-C ended
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}
_LEVELS = {"gzip": (1, 9, 6), "zstd": (1, 22, 3)}  # lowest, highest, usual


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit codes: 0 done, 1 refused, 2 misused, 3 no access, 4 not reachable, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    is_proxy = given[:1] == ["proxy"]
    options = (_proxy_parser().parse_args(given[1:])) if is_proxy else _push_parser().parse_args(given)
    report = new_report(as_json=not is_proxy and options.json)
    try:
        asyncio.run(_proxy(options, report) if is_proxy else _push(options, report))
    except KeyboardInterrupt:
        report.fail("interrupted; the same command goes on where this one was", INTERRUPTED)
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
        epilog="registry-push proxy --help: a local registry that does this for docker push and other clients.",
    )
    parser.add_argument("image", metavar="IMAGE[:TAG]", help="what to push; without --to also where, as docker push")
    parser.add_argument(
        "--from",
        dest="source",
        default="docker",
        metavar="SOURCE",
        help="docker (the default), podman, oci:DIR, docker-archive:FILE or oci-archive:FILE",
    )
    parser.add_argument("--to", metavar="HOST/REPOSITORY[:TAG]", help="where to push to, if not to where IMAGE says")
    parser.add_argument(
        "--mount-from", action="append", default=[], metavar="REPOSITORY", help="has some of the layers"
    )
    parser.add_argument("--compression", choices=tuple(_LEVELS), default="gzip", help="of layers that are not yet")
    parser.add_argument("--level", type=int, help="gzip: 1 to 9, by default 6; zstd: 1 to 22, by default 3")
    parser.add_argument("--jobs", type=_positive, default=4, metavar="N", help="blobs that are pushed at once (4)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where compressed layers are kept")
    parser.add_argument("--cache-limit", type=_size, default=DEFAULT_LIMIT, metavar="SIZE", help="of it, 20Gi")
    parser.add_argument("--dry-run", action="store_true", help="read and compress, and say what would be pushed")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of text")
    _common(parser)
    return parser


def _proxy_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="registry-push proxy",
        description="A local registry that passes everything on, and cuts what is pushed into chunks.",
    )
    parser.add_argument("--listen", default="127.0.0.1:5000", metavar="ADDRESS:PORT", help="127.0.0.1:5000")
    parser.add_argument("--to", required=True, metavar="URL", help="the registry, as https://registry.example.com")
    parser.add_argument(
        "--log-in", action="store_true", help="use this machine's credentials for what clients ask without their own"
    )
    parser.add_argument(
        "--host",
        type=_host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="that clients call the proxy by, as host.docker.internal, if it is not localhost or an address",
    )
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunk-size", type=_size, metavar="SIZE", help="as 16MB or 16MiB; by default the registry's")
    parser.add_argument("--retries", type=_positive, default=8, metavar="N", help="of what makes no headway (8)")
    parser.add_argument("--username", help="instead of the credentials that docker or podman keep")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument(
        "--token-server",
        action="append",
        default=[],
        metavar="HOST",
        help="is not the registry, gives its tokens, and may have the password for that",
    )
    parser.add_argument("--insecure", action="store_true", help="plain HTTP, also to another machine than this one")
    parser.add_argument("--verbose", action="store_true", help="say every request; no secrets")


async def _push(options: argparse.Namespace, report: Report) -> None:
    target = parse_target(options.to or options.image, insecure=options.insecure)
    compression = _compression(options)
    credentials = _credentials(options, target.registry.host, target.repository)
    scopes = [f"repository:{target.repository}:pull,push"]
    scopes += [f"repository:{source}:pull" for source in options.mount_from]
    with closing(Cache(options.cache or default_folder(os.environ), options.cache_limit)) as cache:
        loader = Loader(cache, compression, report)
        image = await asyncio.to_thread(loader.load, options.source, options.image)
        async with new_http() as http:
            authentication = Authentication(http, credentials, scopes, _token_servers(options, target.registry))
            retries = Retries(options.retries)
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
            digest = await pusher.push(image)
        cache.trim()
    report.result(str(target), digest, {**asdict(pusher.counts), "dry_run": options.dry_run})


async def _proxy(options: argparse.Namespace, report: Report) -> None:
    registry = parse_registry(options.to, insecure=options.insecure)
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdigit():
        raise Misused(f"--listen {options.listen}: an address and a port, as in 127.0.0.1:5000")
    log_in = options.log_in or options.username is not None
    credentials = _credentials(options, registry.host, "") if log_in else None
    if log_in and credentials is None:
        raise Misused(f"no credentials for {registry.host}: docker login {registry.host}, or --username")
    async with new_http() as http:
        proxy = Proxy(
            http=http,
            guard=Guard(host.strip("[]"), frozenset(options.host)),
            token_servers=_token_servers(options, registry),
            credentials=credentials,
            sizes=ChunkSizes(options.chunk_size),
            retries=Retries(options.retries),
            say=report.say,
            wire=_wire(options, report),
        )
        await proxy.serve(int(port))


def _token_servers(options: argparse.Namespace, registry: Registry) -> TokenServers:
    return TokenServers(registry, frozenset(each.lower() for each in options.token_server), options.insecure)


def _credentials(options: argparse.Namespace, host: str, repository: str) -> Credentials | None:
    if options.username is None and not options.password_stdin:
        return find(host, repository, os.environ)
    if options.username is None or not options.password_stdin:
        raise Misused("--username and --password-stdin go together")
    return Credentials(options.username, sys.stdin.read().rstrip("\r\n"))


def _compression(options: argparse.Namespace) -> Compression:
    lowest, highest, usual = _LEVELS[options.compression]
    level = usual if options.level is None else options.level
    if not lowest <= level <= highest:
        raise Misused(f"--level {level}: {options.compression} has {lowest} to {highest}")
    return Compression(options.compression, level)


def _wire(options: argparse.Namespace, report: Report) -> Callable[[str], None]:
    return report.say if options.verbose else lambda line: None


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})\s*([KMG]I?|)B?", text.upper(), re.ASCII)
    if found is None or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no size: 16MB and 16MiB are")
    return int(found[1]) * _UNITS[found[2]]


def _host_name(text: str) -> str:
    if re.fullmatch(r"[a-z0-9_.-]+", text.lower(), re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text} is no name of a host; it has no port")
    return text.lower()


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return int(text)
