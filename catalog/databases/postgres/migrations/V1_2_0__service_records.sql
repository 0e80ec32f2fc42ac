-- Records of services that need no tables of their own, and the canaries by which every service
-- measures that what it stores is ciphertext. Nothing can be looked up by content.

CREATE TABLE work.records (
    service text NOT NULL CHECK (service ~ '^[a-z][a-z0-9-]{1,39}$'),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    kind text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9-]{1,59}$'),
    body_ciphertext bytea NOT NULL,
    -- Rises with every change: of two writers that read the same revision one wins.
    revision integer NOT NULL DEFAULT 1 CHECK (revision > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service, id)
);
COMMENT ON COLUMN work.records.body_ciphertext IS 'Names the key version it needs in its first bytes';
CREATE INDEX records_newest ON work.records (service, kind, created_at DESC);

GRANT SELECT, INSERT, UPDATE, DELETE ON work.records TO drp_services;
