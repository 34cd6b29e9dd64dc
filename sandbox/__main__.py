"""The sandbox's command line."""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from sandbox.service import Fault, Sandbox, SandboxError, Service, find_program, wait_until
from sandbox.services import all_services

console = Console(stderr=True, highlight=False)


def up(sandbox: Sandbox, services: list[Service]) -> None:
    """Start every service, independent ones side by side; show progress by the line."""
    missing = {p: pkg for s in services for p, pkg in s.programs.items() if not find_program(p)}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise SandboxError(f"missing programs: {', '.join(missing)}. Get them with: apt-get install {packages}")
    sandbox.state.renew_taken_ports([p for s in services if not sandbox.pid(s.name) for p in s.ports])
    with sandbox.state.change() as data:
        data["scale"] = sandbox.scale
    done = {service.name: threading.Event() for service in services}
    failed = threading.Event()

    def run(service: Service) -> None:
        begun = time.monotonic()
        try:
            for need in done.keys() & set(service.needs):
                while not done[need].wait(0.1):
                    if failed.is_set():
                        return
            begun = time.monotonic()
            service.start(sandbox)
            what = f"{service.name} ready (log: {sandbox.log(service.name)})"
            wait_until(what, lambda: service.ready(sandbox), seconds=service.patience)
            service.prepare(sandbox)
        except BaseException:
            failed.set()
            raise
        done[service.name].set()
        console.print(f"  [green]✓[/] {service.name:<16} {time.monotonic() - begun:5.1f} s")

    with ThreadPoolExecutor(len(services)) as pool:
        for future in [pool.submit(run, service) for service in services]:
            future.result()


def down(sandbox: Sandbox, services: list[Service]) -> None:
    """Stop everything that runs, and forget the faults: what starts next starts healthy."""
    with ThreadPoolExecutor(len(services)) as pool:
        list(pool.map(lambda s: s.stop(sandbox), reversed(services)))
    (sandbox.folder / "faults.json").unlink(missing_ok=True)


def status(sandbox: Sandbox, services: list[Service]) -> bool:
    """Print services, pages and active faults; return whether all services answer."""
    table = Table("service", "answers", "ports", box=None)
    healthy = True
    for service in services:
        answers = service.ready(sandbox)
        healthy &= answers
        ports = ", ".join(f"{name} {sandbox.port(name)}" for name in service.ports)
        table.add_row(service.name, "[green]yes[/]" if answers else "[red]no[/]", ports)
    console.print(table)
    for service in services:
        for title, url in service.pages(sandbox).items():
            console.print(f"{title}: {url}")
    for name, options in sandbox.state.faults().items():
        console.print(f"[red]broken[/]: {name} {options or ''}")
    return healthy


def _faults(services: list[Service]) -> dict[str, Fault]:
    return {fault.name: fault for service in services for fault in service.faults}


def _fault(services: list[Service], name: str) -> Fault:
    faults = _faults(services)
    if name not in faults:
        raise SandboxError(f"no fault {name!r}; there are: {', '.join(sorted(faults))}")
    return faults[name]


def break_(sandbox: Sandbox, services: list[Service], name: str, given: list[str]) -> None:
    """Make one thing go wrong."""
    fault = _fault(services, name)
    options = dict(fault.options)
    for pair in given:
        key, _, value = pair.partition("=")
        if key not in options:
            raise SandboxError(f"{name} has no option {key!r}; it has: {', '.join(options) or 'none'}")
        try:
            options[key] = type(options[key])(value)
        except ValueError as error:
            raise SandboxError(f"{name} {key}={value}: expected {type(options[key]).__name__}") from error
    sandbox.state.set_fault(name, options)
    if fault.apply:
        try:
            fault.apply(sandbox, options)
        except BaseException:
            sandbox.state.set_fault(name, None)
            raise
    console.print(f"[red]broken[/]: {fault.summary}")
    console.print(f"  shows as: {fault.shows_as}\n  heal it:  python -m sandbox heal {name}")


def heal(sandbox: Sandbox, services: list[Service], name: str | None) -> None:
    """Undo one fault, or all that are active."""
    for active in [name] if name else list(sandbox.state.faults()):
        fault = _fault(services, active)
        options = sandbox.state.faults().get(active, dict(fault.options))
        sandbox.state.set_fault(active, None)
        if fault.heal:
            fault.heal(sandbox, options)
        console.print(f"[green]healed[/]: {fault.summary}")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--scale", type=int, default=1, help="how much data: 1 is 5 tenants and 50,000 emissions")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "status", "reset"):
        commands.add_parser(name).add_argument("--scale", type=int, default=argparse.SUPPRESS)
    breaking = commands.add_parser("break")
    breaking.add_argument("fault", nargs="?")
    breaking.add_argument("option", nargs="*", help="name=value")
    commands.add_parser("heal").add_argument("fault", nargs="?")
    args = parser.parse_args(argv)
    services = all_services()
    try:
        return _run(args, Sandbox(scale=args.scale), services)
    except SandboxError as error:
        console.print(f"[red]sandbox:[/] {error}")
        return 1


def _run(args: argparse.Namespace, sandbox: Sandbox, services: list[Service]) -> int:
    match args.command:
        case "up":
            up(sandbox, services)
        case "down":
            down(sandbox, services)
        case "status":
            return 0 if status(sandbox, services) else 1
        case "reset":
            down(sandbox, services)
            shutil.rmtree(sandbox.folder)
            up(Sandbox(scale=args.scale), services)
        case "break" if args.fault:
            break_(sandbox, services, args.fault, args.option)
        case "break":
            for fault in sorted(_faults(services).values(), key=lambda f: f.name):
                console.print(f"{fault.name:<24} {fault.summary}  → {fault.shows_as}")
        case "heal":
            heal(sandbox, services, args.fault)
    return 0


if __name__ == "__main__":
    sys.exit(main())
