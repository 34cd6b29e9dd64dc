"""From trigger to Slack against the runbook's own commands, one after the other: at most half the time.

Every system of the sandbox answers after 1 s (fault ``slow``). On one side the daily health check, from
the trigger over REST to the message in Slack. On the other the runbook's commands (kubectl, curl, psql,
redis-cli, aws, openssl) in one shell script, doing the same reads: every pod's log and not one pod's,
every priority of a queue, the past weeks that today is compared with. For comparison, the runbook's
commands just as they stand there, which read about half of that, are timed as well. ``aws`` is left out
where it is not installed, which favours the scripts. In turn, three times; the median of the ratios counts.
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
PROM = r"""
prom() { curl -sS -u "$PROM_USER:$PROM_PASSWORD" --data-urlencode "query=$1" "$PROM/api/v1/query"; }
"""
TENANTS = "SELECT count(DISTINCT tenant_id) FROM sessions WHERE last_active > NOW() - INTERVAL '24 hours'"
AS_WRITTEN = rf"""{PROM}
kubectl get pods -n vcci-production | grep -v Running
curl -sS --cacert "$CA" "$API/health/ready"
prom 'sum(rate(http_requests_total[24h]))'
prom 'sum(rate(http_requests_total{{status=~"5.."}}[24h]))/sum(rate(http_requests_total[24h]))'
psql -X -tAc "{TENANTS}"
psql -X -c "SELECT 'Connections', count(*) FROM pg_stat_activity UNION ALL
            SELECT 'Size (GB)', pg_database_size('vcci_production')::bigint/1024/1024/1024"
for queue in intake calculator hotspot engagement reporting; do redis-cli LLEN celery:$queue; done
kubectl logs -n vcci-production deployment/backend-api --since=1h | grep -c ERROR
command -v aws >/dev/null && aws s3 ls s3://vcci-backups/daily/ | tail -1
true
"""
SAME_READS = rf"""{PROM}
kubectl get pods,deployments -n vcci-production
kubectl get nodes
kubectl top nodes
kubectl top pods -n vcci-production --sort-by=memory
curl -sS --cacert "$CA" "$API/health/ready"
for offset in "" "offset 7d" "offset 14d" "offset 21d" "offset 28d"; do
  prom "sum(increase(http_requests_total[24h] $offset))"
done
for offset in "" "offset 7d"; do prom "sum(increase(http_requests_total{{status=~\"5..\"}}[24h] $offset))"; done
psql -X -tAc "{TENANTS}"
psql -X -c "SELECT 'Connections', count(*) FROM pg_stat_activity UNION ALL
            SELECT 'Size', pg_database_size('vcci_production')"
psql -X -c "SELECT pid, state, xact_start FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start"
psql -X -c "SELECT query, calls, mean_exec_time FROM pg_stat_statements ORDER BY mean_exec_time DESC LIMIT 200"
psql -X -c "SELECT action, count(*) FROM audit_log WHERE created_at > NOW() - INTERVAL '24 hours' GROUP BY action"
for queue in intake calculator hotspot engagement reporting; do
  for priority in "" $'\x06\x163' $'\x06\x166' $'\x06\x169'; do redis-cli LLEN "celery:$queue$priority"; done
done
redis-cli HLEN celery:unacked
redis-cli ZRANGE celery:unacked_index 0 0 WITHSCORES
kubectl logs -n vcci-production -l app=backend-api --since=1h --tail=-1 | grep -c ERROR
command -v aws >/dev/null && aws s3 ls s3://vcci-backups/daily/ | tail -1
echo | openssl s_client -servername api.vcci.greenlang.io -connect "${{API#https://}}" 2>/dev/null |
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


def seconds(script: str, env: dict[str, str]) -> float:
    """Run a script and return how long it took."""
    began = time.perf_counter()
    subprocess.run(["bash", "-c", script], env=env, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> int:
    """Print both times and their ratio; return 1 when it is above the limit."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VCCI_SANDBOX_HOME"] = folder
        demo = Demo()
        try:
            client = demo.start()
            cli = f"redis-cli -p {demo.sandbox.port('redis')}"
            written, same = (script.replace("redis-cli", cli) for script in (AS_WRITTEN, SAME_READS))
            env = environment(demo)
            client.wait(DAG, client.trigger(DAG))  # warm-up
            seconds(same, env)
            break_(demo.sandbox, demo.services, "slow", [f"seconds={SECONDS}"])
            ratios = []
            for _ in range(ROUNDS):
                begun = time.time()
                run_id = client.trigger(DAG)
                client.wait(DAG, run_id)
                ours = float(client.xcom(DAG, run_id, "slack", "return_value").rpartition("/")[2]) - begun
                theirs, plain = seconds(same, env), seconds(written, env)
                ratios.append(ours / theirs)
                print(
                    f"trigger to Slack {ours:.1f} s; the same reads by hand {theirs:.1f} s, ratio {ours / theirs:.2f}; "
                    f"the runbook's commands as written {plain:.1f} s, ratio {ours / plain:.2f}"
                )
        finally:
            demo.stop()
    median = statistics.median(ratios)
    aws = "with" if shutil.which("aws") else "without"
    print(f"median ratio {median:.2f} (limit {LIMIT}), script {aws} aws, {SECONDS} s a request")
    return int(median > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
