"""What a PostgreSQL schema looks like, as lines that do not depend on the order in which it was made.

Here: one query over the catalog. Left out are the server's own schemas, what extensions brought, names that
start with ``drp_`` (the platform's bookkeeping), and vector indexes, which the loader of knowledge drops and
builds around large loads. An owner is written as ``owner``: logins differ between environments.
"""

from __future__ import annotations

from typing import Any

import psycopg

_OURS = """
WITH spaces AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' AND nspname NOT LIKE 'drp\\_%'
), brought AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relations AS (
    SELECT c.*, s.nspname || '.' || c.relname AS name FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace
    WHERE c.relname NOT LIKE 'drp\\_%' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_class'::regclass AND b.objid = c.oid)
), functions AS (
    SELECT p.*, s.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name
    FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace
    WHERE p.prokind IN ('f', 'p') AND p.proname NOT LIKE 'drp\\_%'
      AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_proc'::regclass AND b.objid = p.oid)
), grants AS (
    SELECT 'schema ' || s.nspname AS what, n.nspowner AS owner, coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
    FROM pg_namespace n JOIN spaces s USING (oid)
    UNION ALL
    SELECT 'relation ' || name, relowner,
           coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
    FROM relations
    UNION ALL
    SELECT 'column ' || r.name || '.' || a.attname, r.relowner, a.attacl
    FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid WHERE a.attacl IS NOT NULL
    UNION ALL
    SELECT 'function ' || name, proowner, coalesce(proacl, acldefault('f', proowner)) FROM functions
)
SELECT 'schema ' || nspname FROM spaces
UNION ALL SELECT 'extension ' || extname FROM pg_extension
UNION ALL
SELECT 'relation ' || name || ' ' || relkind::text || ' ' || relpersistence::text
    || CASE WHEN relrowsecurity THEN ' row security' ELSE '' END
    || CASE WHEN relkind IN ('v', 'm') THEN ' ' || pg_get_viewdef(oid) ELSE '' END
    || coalesce(' ' || pg_get_partkeydef(oid), '') || coalesce(' ' || array_to_string(reloptions, ','), '')
FROM relations
UNION ALL
SELECT 'column ' || r.name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || a.attidentity::text || a.attgenerated::text
    || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S'
UNION ALL
SELECT 'constraint ' || r.name || ' ' || c.conname || ' ' || pg_get_constraintdef(c.oid)
FROM pg_constraint c JOIN relations r ON r.oid = c.conrelid WHERE c.contype <> 't' AND c.contype <> 'n'
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
FROM pg_index i JOIN relations r ON r.oid = i.indrelid
JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
WHERE m.amname NOT IN ('hnsw', 'ivfflat') AND x.relname NOT LIKE 'drp\\_%'
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'policy ' || r.name || ' ' || p.polname || ' ' || p.polcmd::text
    || coalesce(' ' || pg_get_expr(p.polqual, p.polrelid), '')
FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
UNION ALL
SELECT 'function ' || name || ' ' || md5(pg_get_functiondef(oid)) FROM functions
UNION ALL
SELECT 'type ' || s.nspname || '.' || t.typname || ' ' || t.typtype::text || ' '
    || coalesce((SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
                format_type(t.typbasetype, t.typtypmod))
FROM pg_type t JOIN spaces s ON s.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd') AND t.typname NOT LIKE 'drp\\_%'
  AND NOT EXISTS (SELECT FROM brought b WHERE b.classid = 'pg_type'::regclass AND b.objid = t.oid)
UNION ALL
SELECT 'sequence ' || r.name || ' ' || format_type(q.seqtypid, NULL) || ' ' || q.seqincrement
    || CASE WHEN q.seqcycle THEN ' cycle' ELSE '' END
FROM pg_sequence q JOIN relations r ON r.oid = q.seqrelid
UNION ALL
SELECT 'grant ' || g.what || ' ' || x.privilege_type || ' to '
    || CASE x.grantee WHEN 0 THEN 'public' WHEN g.owner THEN 'owner' ELSE coalesce(
        (SELECT rolname FROM pg_roles WHERE oid = x.grantee), 'nobody') END
    || CASE WHEN x.is_grantable THEN ' with grant option' ELSE '' END
FROM grants g, aclexplode(g.acl) x
"""


def shape_of(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Inside a transaction: the search path is emptied until its end, so that every name is written in full."""
    connection.execute("SELECT set_config('search_path', '', true)")
    return tuple(sorted(row[0] for row in connection.execute(_OURS).fetchall()))
