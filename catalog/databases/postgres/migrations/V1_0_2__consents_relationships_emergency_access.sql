-- Who may see whose data: by consent, by relationship, or by breaking the glass.

CREATE TABLE consent.consents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id uuid NOT NULL REFERENCES identity.accounts,
    purpose text NOT NULL CHECK (purpose IN ('treatment', 'ai-assistance', 'research', 'sharing', 'marketing')),
    policy_version text NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    withdrawn_at timestamptz CHECK (withdrawn_at >= granted_at),
    evidence_ciphertext bytea
);
-- Of one purpose one consent is in force; earlier ones stay as evidence.
CREATE UNIQUE INDEX consents_in_force ON consent.consents (account_id, purpose) WHERE withdrawn_at IS NULL;
CREATE INDEX consents_account ON consent.consents (account_id, granted_at DESC);

CREATE TABLE identity.relationships (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    patient_id uuid NOT NULL REFERENCES identity.accounts,
    other_id uuid NOT NULL REFERENCES identity.accounts,
    kind text NOT NULL CHECK (kind IN ('clinician', 'caregiver', 'parent', 'guardian', 'partner')),
    note_ciphertext bytea,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz CHECK (ended_at >= started_at),
    CHECK (patient_id <> other_id)
);
CREATE UNIQUE INDEX relationships_current ON identity.relationships (patient_id, other_id, kind) WHERE ended_at IS NULL;
CREATE INDEX relationships_other ON identity.relationships (other_id) WHERE ended_at IS NULL;

-- Emergency access procedure, 45 CFR 164.312(a)(2)(ii): short, reasoned, reviewed afterwards.
CREATE TABLE identity.emergency_access (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    requester_id uuid NOT NULL REFERENCES identity.accounts,
    patient_id uuid NOT NULL REFERENCES identity.accounts,
    reason_ciphertext bytea NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    reviewed_by uuid REFERENCES identity.accounts,
    reviewed_at timestamptz,
    CHECK (expires_at > granted_at AND expires_at <= granted_at + interval '24 hours'),
    CHECK (reviewed_by IS DISTINCT FROM requester_id) -- nobody reviews their own access
);
CREATE INDEX emergency_access_unreviewed ON identity.emergency_access (granted_at) WHERE reviewed_at IS NULL;
CREATE INDEX emergency_access_patient ON identity.emergency_access (patient_id, expires_at);

GRANT SELECT, INSERT, UPDATE ON consent.consents, identity.relationships, identity.emergency_access TO drp_services;
