-- People and machines that log in, and what they may do.

CREATE TABLE identity.accounts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind text NOT NULL CHECK (kind IN ('patient', 'clinician', 'caregiver', 'staff', 'service')),
    email_ciphertext bytea NOT NULL,
    -- Log-in looks accounts up by address; the address itself stays unreadable here.
    email_blind_index bytea NOT NULL CHECK (octet_length(email_blind_index) = 32),
    display_name_ciphertext bytea,
    password_hash text CHECK (password_hash IS NULL OR password_hash LIKE '$argon2id$%'),
    key_version integer NOT NULL DEFAULT 1 CHECK (key_version > 0),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('invited', 'active', 'locked', 'closed')),
    failed_logins integer NOT NULL DEFAULT 0 CHECK (failed_logins >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN identity.accounts.key_version IS 'Which version of the PHI key the ciphertexts need';
CREATE UNIQUE INDEX accounts_email_blind_index ON identity.accounts (email_blind_index);

CREATE TABLE identity.roles (
    name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z-]{1,39}$'),
    description text NOT NULL
);

CREATE TABLE identity.role_permissions (
    role text NOT NULL REFERENCES identity.roles ON DELETE CASCADE,
    permission text NOT NULL CHECK (permission ~ '^[a-z-]+:[a-z-]+$'),
    PRIMARY KEY (role, permission)
);
COMMENT ON COLUMN identity.role_permissions.permission IS 'What and how, such as conversation:read';

CREATE TABLE identity.account_roles (
    account_id uuid NOT NULL REFERENCES identity.accounts ON DELETE CASCADE,
    role text NOT NULL REFERENCES identity.roles,
    granted_by uuid REFERENCES identity.accounts,
    granted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, role)
);
CREATE INDEX account_roles_role ON identity.account_roles (role);

CREATE TABLE identity.sessions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    account_id uuid NOT NULL REFERENCES identity.accounts ON DELETE CASCADE,
    -- Only the hash: whoever reads this table cannot take over a session.
    token_hash bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    revoked_at timestamptz
);
CREATE INDEX sessions_account ON identity.sessions (account_id, expires_at);

INSERT INTO identity.roles (name, description) VALUES
    ('patient', 'Uses the platform for themselves'),
    ('caregiver', 'Supports a patient who agreed to it'),
    ('clinician', 'Treats patients they have a relationship with'),
    ('support', 'Helps with accounts and billing; no clinical content'),
    ('auditor', 'Reads the audit record and nothing else'),
    ('administrator', 'Manages accounts and roles; no clinical content');

INSERT INTO identity.role_permissions (role, permission) VALUES
    ('patient', 'conversation:read'), ('patient', 'conversation:write'), ('patient', 'consent:write'),
    ('caregiver', 'care-plan:read'),
    ('clinician', 'conversation:read'), ('clinician', 'care-plan:read'), ('clinician', 'care-plan:write'),
    ('clinician', 'emergency-access:request'),
    ('support', 'account:read'), ('support', 'subscription:write'),
    ('auditor', 'audit:read'),
    ('administrator', 'account:write'), ('administrator', 'role:grant');

GRANT SELECT, INSERT, UPDATE ON identity.accounts, identity.sessions TO drp_services;
GRANT SELECT ON identity.roles, identity.role_permissions TO drp_services;
GRANT SELECT, INSERT, DELETE ON identity.account_roles TO drp_services;
GRANT DELETE ON identity.sessions TO drp_services; -- expired ones are swept
