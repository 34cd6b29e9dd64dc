#!/usr/bin/env bash
# Run by the postgres image on the first start of docker-compose.yaml: one database and one role for
# Airflow's metadata, one for the history of results. Passwords go in as psql variables, quoted by psql.
set -euo pipefail

make_database() { # name password
    NAME=$1 PASSWORD=$2 psql --no-psqlrc --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres <<'SQL'
\getenv name NAME
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT, TEMPORARY ON DATABASE :"name" FROM PUBLIC;
SQL
}

make_database airflow "$AIRFLOW_DB_PASSWORD"
make_database vcci_ops "$OPS_DB_PASSWORD"
