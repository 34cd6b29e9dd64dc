"""``make demo``: the sandbox, Airflow on it, one daily health check, and its report in the terminal."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from sandbox.__main__ import down, up
from sandbox.airflow import Airflow, Client
from sandbox.history import seed_history
from sandbox.service import Sandbox, SandboxError, Service
from sandbox.services import all_services

DAG = "daily_health_check"
STYLE = {"ok": "green", "warning": "yellow", "critical": "bold red", "unknown": "magenta"}
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


def all_connections(sandbox: Sandbox, services: list[Service]) -> dict[str, dict[str, Any]]:
    """Return every Airflow connection of the sandbox."""
    return {id_: connection for service in services for id_, connection in service.connections(sandbox).items()}


class Demo:
    """The sandbox and an Airflow on it, started side by side and stopped together."""

    def __init__(self, *, scale: int = 1) -> None:
        self.sandbox = Sandbox(scale=scale)
        self.services = all_services()
        self.airflow = Airflow({})

    def start(self) -> Client:
        """Start everything; return a client that is logged in."""
        self._reserve_ports()
        self.airflow = Airflow(all_connections(self.sandbox, self.services))
        up(self.sandbox, [*self.services, self.airflow, _History(self.airflow)])
        return self.client("admin")

    def client(self, user: str) -> Client:
        """Log in as a user of the sandbox's Airflow."""
        return Client(self.airflow.url(self.sandbox), user, self.sandbox.secret(f"airflow-{user}"))

    def stop(self) -> None:
        """Stop everything that was started; Airflow first, while it still has its database."""
        self.airflow.stop(self.sandbox)
        down(self.sandbox, self.services)

    def _reserve_ports(self) -> None:
        """Choose every port before anything starts, for Airflow's connections name them."""
        idle = [p for s in [*self.services, self.airflow] if not self.sandbox.pid(s.name) for p in s.ports]
        if not self.sandbox.pid("airflow-api-server"):
            self.sandbox.state.renew_taken_ports([*idle])


class _History(Service):
    """Past reports, so that the first one has something to compare with; ready with Airflow's migrations."""

    name = "history"
    needs = ("airflow",)

    def __init__(self, airflow: Airflow) -> None:
        self._airflow = airflow

    def start(self, sandbox: Sandbox) -> None:
        seed_history(sandbox)

    def stop(self, sandbox: Sandbox) -> None:
        """Nothing runs."""


def arrived(demo: Demo, report: dict[str, Any], run_id: str) -> dict[str, bool]:
    """Ask Slack, S3 and the history themselves whether they have the report."""
    from sandbox.history import has_run

    page = requests.get(page_url(demo, report), timeout=10)
    inbox = requests.get(f"http://127.0.0.1:{demo.sandbox.port('inbox')}/api/slack", timeout=10).text
    return {
        "Slack": report["slack"]["block_id"] in inbox,
        "S3": page.status_code == 200 and report["verdict"].split(":")[0] in page.text,
        "history": has_run(demo.sandbox, DAG, run_id),
    }


def page_url(demo: Demo, report: dict[str, Any]) -> str:
    """Return where the report's page can be opened without a login: straight from the sandbox's S3."""
    address = report["arrived"].get("s3", "s3://none").removeprefix("s3://")
    return f"http://127.0.0.1:{demo.sandbox.port('s3')}/{address}"


def print_report(document: dict[str, Any]) -> None:
    """Print the report as a table, verdict first."""
    console.print()
    console.print(f"[{STYLE[document['status']]}]{document['verdict']}[/]", style="bold")
    compared = document["compared_with"]
    console.print(
        f"[dim]{document['title']} of {document['environment']}, {document['started_at'][:16]} UTC"
        f"{', compared with ' + compared[:16] if compared else ''}[/]"
    )
    for change in document["changes"]:
        console.print(f"  changed: {change}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "check", "value", "found"):
        table.add_column(column, overflow="fold", no_wrap=column == "")
    section = None
    for result in document["results"]:
        if result["section"] != section:
            section = result["section"]
            table.add_row("", f"[bold]{section}[/]", "", "")
        name = result["title"] + (f" · {result['subject']}" if result["subject"] else "")
        table.add_row(
            f"[{STYLE[result['status']]}]{result['status']}[/]", name, result["display"], _plain(result["summary"])
        )
    console.print(table)
    for result in document["results"]:
        if result["status"] != "ok":
            console.print(
                f"\n[{STYLE[result['status']]}]{result['status']}[/] {result['title']}: {_plain(result['summary'])}"
            )
            console.print(f"  do: {_plain(result['action'])}")
    console.print()


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def check_once(demo: Demo, client: Client) -> bool:
    """Run the daily health check, print its report; return whether it arrived everywhere."""
    run_id = client.trigger(DAG)
    console.print(f"[dim]{DAG} runs: {demo.airflow.url(demo.sandbox)}/dags/{DAG}/runs/{run_id}[/]")
    state = client.wait(DAG, run_id)
    try:
        report = client.xcom(DAG, run_id, "report", "report")
    except requests.HTTPError:
        console.print(f"[bold red]The run ended {state} and made no report.[/] Read the log of its task `report`.")
        return False
    document = requests.get(page_url(demo, report).replace("report.html", "report.json"), timeout=10)
    if document.ok:
        print_report(document.json())
    else:
        console.print(report["verdict"])
    places = arrived(demo, report, run_id)
    shown = ", ".join(f"[green]✓ {name}[/]" if there else f"[bold red]✗ {name}[/]" for name, there in places.items())
    console.print(f"Arrived in: {shown}    run: {state}    tasks: {_tasks(client, run_id)}")
    console.print(f"Report page: {page_url(demo, report)}")
    return all(places.values()) and (state == "success" or report["status"] in ("critical", "unknown"))


def _tasks(client: Client, run_id: str) -> str:
    states = list(client.tasks(DAG, run_id).values())
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def print_addresses(demo: Demo) -> None:
    """Say where to look."""
    for user, what in (("admin", "Airflow:"), ("approver", "to approve:"), ("second-approver", "and also:")):
        login = f"login {user} / {demo.sandbox.secret(f'airflow-{user}')}"
        console.print(f"{what:<12} {demo.airflow.url(demo.sandbox)}   {login}")
    for service in demo.services:
        for title, url in service.pages(demo.sandbox).items():
            console.print(f"{title + ':':<12} {url}")
    console.print("Break something:  .venv/bin/python -m sandbox break          (lists what can be broken)")


def main(argv: list[str] | None = None) -> int:
    """Run the demo; exit code 0 only if the report arrived everywhere."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the report")
    parser.add_argument("--scale", type=int, default=1)
    args = parser.parse_args(argv)
    begun = time.monotonic()
    demo = Demo(scale=args.scale)
    asked_to_stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: _stop(asked_to_stop))
    good = False
    try:
        console.print("Starting the sandbox and Airflow")
        client = demo.start()
        good = check_once(demo, client)
        console.print(f"[dim]{time.monotonic() - begun:.0f} s from start to report[/]\n")
        print_addresses(demo)
        if not args.once:
            console.print("\nRuns until Ctrl-C.")
            asked_to_stop.wait()
    except KeyboardInterrupt:
        good = good or asked_to_stop.is_set()
    except (SandboxError, requests.RequestException) as error:
        console.print(f"[bold red]demo:[/] {error}", markup=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.print("[dim]stopping …[/]")
        demo.stop()
    return 0 if good else 1


def _stop(event: threading.Event) -> None:
    event.set()
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(main())
