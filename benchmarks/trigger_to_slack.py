"""From trigger to Slack against the runbook's own commands, one after the other: at most half the time.

Every system of the sandbox answers after 1 s (fault ``slow``). On one side the daily health check, from
the trigger over REST to the message in Slack. On the other the commands of the runbook's morning check
and daily list as they are written there (kubectl, curl, psql, redis-cli, aws, openssl), in one shell
script, each reading what the DAG reads too. ``aws`` is left out where it is not installed, which favours
the script. Both sides in turn, three times; the median of the ratios counts.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from sandbox.__main__ import break_  # noqa: E402
from sandbox.demo import DAG, Demo, all_connections  # noqa: E402
from sandbox.service import find_program  # noqa: E402

LIMIT, SECONDS, ROUNDS = 0.5, 1, 3
SCRIPT = r"""
kubectl get pods -n vcci-production | grep -v Running
curl -sS --cacert "$CA" "$API/health/ready"
prom() { curl -sS -u "$PROM_USER:$PROM_PASSWORD" --data-urlencode "query=$1" "$PROM/api/v1/query"; }
prom 'sum(rate(http_requests_total[24h]))'
prom 'sum(rate(http_requests_total{status=~"5.."}[24h]))/sum(rate(http_requests_total[24h]))'
psql -X -tAc "SELECT count(DISTINCT tenant_id) FROM sessions WHERE last_active > NOW() - INTERVAL '24 hours'"
psql -X -c "SELECT 'Connections', count(*) FROM pg_stat_activity UNION ALL
            SELECT 'Size (GB)', pg_database_size('vcci_production')::bigint/1024/1024/1024"
for queue in intake calculator hotspot engagement reporting; do redis-cli LLEN celery:$queue; done
kubectl logs -n vcci-production deployment/backend-api --since=1h | grep -c ERROR
command -v aws >/dev/null && aws s3 ls s3://vcci-backups/daily/ | tail -1
psql -X -c "SELECT query, calls, mean_exec_time FROM pg_stat_statements ORDER BY mean_exec_time DESC LIMIT 10"
psql -X -c "SELECT action, count(*) FROM audit_log WHERE created_at > NOW() - INTERVAL '24 hours' GROUP BY action"
echo | openssl s_client -servername api.vcci.greenlang.io -connect "${API#https://}" 2>/dev/null |
  openssl x509 -noout -dates
true
"""


def environment(demo: Demo) -> dict[str, str]:
    """Return what the script's commands need, from the same connections."""
    found = all_connections(demo.sandbox, demo.services)
    pg, redis, prom, api, s3 = (found[f"vcci_{n}"] for n in ("postgres", "redis", "prometheus", "api", "s3"))
    extra = {
        k: v if isinstance(v, dict) else json.loads(v) for k, v in ((k, c.get("extra") or {}) for k, c in found.items())
    }
    kubectl = Path(find_program("kubectl") or "kubectl").parent
    return {
        **os.environ,
        "PATH": f"{kubectl}:{os.environ['PATH']}",
        "KUBECONFIG": extra["vcci_kubernetes"]["kube_config_path"],
        "API": f"https://127.0.0.1:{api['port']}",
        "CA": extra["vcci_api"]["verify"],
        "PROM": f"http://127.0.0.1:{prom['port']}",
        "PROM_USER": prom.get("login") or "",
        "PROM_PASSWORD": prom.get("password") or "",
        "PGHOST": pg["host"],
        "PGPORT": str(pg["port"]),
        "PGUSER": pg["login"],
        "PGPASSWORD": pg["password"],
        "PGDATABASE": pg["schema"],
        "REDISCLI_AUTH": redis["password"],
        "AWS_ACCESS_KEY_ID": s3["login"],
        "AWS_SECRET_ACCESS_KEY": s3["password"],
        "AWS_ENDPOINT_URL": extra["vcci_s3"]["endpoint_url"],
        "AWS_DEFAULT_REGION": "eu-central-1",
    }


def main() -> int:
    """Print both times and their ratio; return 1 when it is above the limit."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VCCI_SANDBOX_HOME"] = folder
        demo = Demo()
        try:
            client = demo.start()
            script = SCRIPT.replace("redis-cli", f"redis-cli -p {demo.sandbox.port('redis')}")
            env = environment(demo)
            client.wait(DAG, client.trigger(DAG))  # warm-up
            subprocess.run(["bash", "-c", script], env=env, check=True, capture_output=True)
            break_(demo.sandbox, demo.services, "slow", [f"seconds={SECONDS}"])
            ratios = []
            for _ in range(ROUNDS):
                begun = time.time()
                run_id = client.trigger(DAG)
                client.wait(DAG, run_id)
                ours = float(client.xcom(DAG, run_id, "slack", "return_value").rpartition("/")[2]) - begun
                began = time.perf_counter()
                subprocess.run(["bash", "-c", script], env=env, check=True, capture_output=True)
                theirs = time.perf_counter() - began
                ratios.append(ours / theirs)
                print(
                    f"trigger to Slack {ours:.1f} s; the runbook's commands {theirs:.1f} s; ratio {ours / theirs:.2f}"
                )
        finally:
            demo.stop()
    median = statistics.median(ratios)
    aws = "with" if shutil.which("aws") else "without"
    print(f"median ratio {median:.2f} (limit {LIMIT}), script {aws} aws, {SECONDS} s a request")
    return int(median > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
