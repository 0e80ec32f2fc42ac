-- Who did what to which resource. Rows are added and never changed (45 CFR 164.312(b), 164.316(b)(2)(i)).
--
-- Each row carries the hash of the row before it. The server numbers and chains the rows itself, in
-- a trigger, so that a client can neither choose a number nor leave a gap:
--   INSERT INTO audit.events (actor, action, resource, outcome, detail_ciphertext) VALUES (…)

CREATE TABLE audit.events (
    sequence bigint PRIMARY KEY CHECK (sequence > 0),
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    resource text NOT NULL DEFAULT '',
    outcome text NOT NULL CHECK (outcome IN ('allowed', 'denied', 'failed')),
    service text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT '',
    detail_ciphertext bytea,
    previous_hash bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
COMMENT ON TABLE audit.events IS 'Append-only and hash-chained. Actors and resources are identifiers, never names';
CREATE INDEX events_at ON audit.events USING brin (at); -- rows arrive in order of time: a BRIN index is enough
CREATE INDEX events_actor ON audit.events (actor, sequence);
CREATE INDEX events_resource ON audit.events (resource, sequence) WHERE resource <> '';

-- Number and hash of the newest row. Its row lock puts writers in line, and it shows when the newest
-- rows are gone, which the chain alone cannot.
CREATE TABLE audit.head (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    sequence bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO audit.head (sequence, hash) VALUES (0, sha256('drp audit chain'::bytea));

CREATE FUNCTION audit.hash_of(event audit.events) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Lengths keep neighbouring fields apart: ('ab','c') and ('a','bc') must not hash alike.
RETURN sha256(
    event.previous_hash || convert_to(
        concat_ws('|', event.sequence,
            (extract(epoch FROM event.at) * 1000000)::bigint,
            length(event.actor), event.actor, length(event.action), event.action,
            length(event.resource), event.resource, event.outcome,
            length(event.service), event.service, length(event.request_id), event.request_id,
            coalesce(encode(sha256(event.detail_ciphertext), 'hex'), '-')),
        'UTF8')
);

-- Runs with the rights of its owner: writers may add events, but not touch the head.
CREATE FUNCTION audit.chain_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, audit
AS $$
DECLARE
    newest audit.head;
BEGIN
    SELECT * INTO STRICT newest FROM audit.head FOR UPDATE;
    NEW.sequence := newest.sequence + 1;
    NEW.at := clock_timestamp(); -- the server's, taken under the lock, so that it rises with the number
    NEW.previous_hash := newest.hash;
    NEW.hash := audit.hash_of(NEW);
    UPDATE audit.head SET sequence = NEW.sequence, hash = NEW.hash;
    RETURN NEW;
END;
$$;

CREATE FUNCTION audit.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    RAISE EXCEPTION 'audit.events is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END;
$$;

CREATE TRIGGER chain_event BEFORE INSERT ON audit.events
    FOR EACH ROW EXECUTE FUNCTION audit.chain_event();
-- Per statement: also a change that would touch no row is refused, and the owner is refused as well.
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.events
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
-- ALWAYS: they also fire in a session that plays replica, which switches ordinary triggers off.
ALTER TABLE audit.events ENABLE ALWAYS TRIGGER chain_event;
ALTER TABLE audit.events ENABLE ALWAYS TRIGGER refuse_change;

CREATE FUNCTION audit.broken_links(newest bigint DEFAULT 9223372036854775807)
RETURNS TABLE (sequence bigint, problem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, audit
AS $$
    WITH looked_at AS (
        SELECT e, lag(e.sequence) OVER (ORDER BY e.sequence) AS before, lag(e.hash) OVER (ORDER BY e.sequence) AS link
        FROM audit.events e
        WHERE e.sequence > (SELECT h.sequence FROM audit.head h) - newest
    )
    SELECT (e).sequence, 'was changed' FROM looked_at WHERE (e).hash <> audit.hash_of(e)
    UNION ALL
    SELECT (e).sequence, 'does not follow the row before it' FROM looked_at
    WHERE (e).sequence <> before + 1 OR (e).previous_hash <> link
    UNION ALL
    SELECT h.sequence, 'the newest row is missing or another one' FROM audit.head h
    WHERE h.sequence > 0 AND NOT EXISTS (
        SELECT FROM audit.events n WHERE n.sequence = h.sequence AND n.hash = h.hash
    )
    UNION ALL
    SELECT n.sequence, 'is not counted by the head' FROM audit.events n, audit.head h WHERE n.sequence > h.sequence
$$;
COMMENT ON FUNCTION audit.broken_links IS 'Where the chain of the newest rows is broken; no row means whole';

REVOKE ALL ON FUNCTION audit.broken_links, audit.chain_event, audit.refuse_change, audit.hash_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.broken_links TO drp_services;
GRANT SELECT, INSERT ON audit.events TO drp_services;
