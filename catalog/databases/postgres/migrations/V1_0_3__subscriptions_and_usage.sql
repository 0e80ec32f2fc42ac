-- What people pay for and what they used. Amounts are whole cents, never floating point.

CREATE TABLE billing.plans (
    code text PRIMARY KEY CHECK (code ~ '^[a-z][a-z0-9-]{1,39}$'),
    title text NOT NULL,
    monthly_cents integer NOT NULL CHECK (monthly_cents >= 0),
    currency char(3) NOT NULL DEFAULT 'USD',
    included_units bigint NOT NULL CHECK (included_units >= 0)
);

CREATE TABLE billing.subscriptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id uuid NOT NULL REFERENCES identity.accounts,
    plan text NOT NULL REFERENCES billing.plans,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('trial', 'active', 'past-due', 'cancelled')),
    started_at timestamptz NOT NULL DEFAULT now(),
    renews_at timestamptz,
    ended_at timestamptz
);
CREATE UNIQUE INDEX subscriptions_current ON billing.subscriptions (account_id) WHERE ended_at IS NULL;
CREATE INDEX subscriptions_renewal ON billing.subscriptions (renews_at) WHERE ended_at IS NULL;

CREATE TABLE billing.usage (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES identity.accounts,
    metric text NOT NULL CHECK (metric IN ('messages', 'tokens', 'transcription-seconds', 'searches')),
    units bigint NOT NULL CHECK (units > 0),
    at timestamptz NOT NULL DEFAULT now(),
    -- A producer that repeats a report after a time-out must not be charged for twice.
    report_id uuid NOT NULL UNIQUE
);
CREATE INDEX usage_account ON billing.usage (account_id, metric, at);

INSERT INTO billing.plans (code, title, monthly_cents, included_units) VALUES
    ('free', 'Free', 0, 200),
    ('personal', 'Personal', 1900, 5000),
    ('family', 'Family', 3900, 15000);

GRANT SELECT ON billing.plans TO drp_services;
GRANT SELECT, INSERT, UPDATE ON billing.subscriptions TO drp_services;
GRANT SELECT, INSERT ON billing.usage TO drp_services; -- corrections are new rows of another report
