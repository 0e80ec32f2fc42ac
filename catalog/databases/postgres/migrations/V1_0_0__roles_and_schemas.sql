-- Where everything lies and who may go there. Tables and their grants follow in later steps.

-- Roles are shared by all databases of a server: another one may have made it already.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drp_services') THEN
        CREATE ROLE drp_services NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL; -- made by another database's runner meanwhile
END;
$$;

CREATE EXTENSION IF NOT EXISTS vector;

CREATE SCHEMA IF NOT EXISTS identity;
COMMENT ON SCHEMA identity IS 'Accounts, roles, relationships between people, break-glass access';
CREATE SCHEMA IF NOT EXISTS consent;
COMMENT ON SCHEMA consent IS 'What each person agreed to, and when they withdrew it';
CREATE SCHEMA IF NOT EXISTS billing;
COMMENT ON SCHEMA billing IS 'Plans, subscriptions and metered use';
CREATE SCHEMA IF NOT EXISTS work;
COMMENT ON SCHEMA work IS 'The queue of background tasks';
CREATE SCHEMA IF NOT EXISTS audit;
COMMENT ON SCHEMA audit IS 'Append-only record of who did what (45 CFR 164.312(b))';
CREATE SCHEMA IF NOT EXISTS knowledge;
COMMENT ON SCHEMA knowledge IS 'Articles that answers are composed from; no patient data';

-- Nobody gets in by being somebody: only members of the group may look into these schemas.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO drp_services; -- the vector type and the schema history
GRANT USAGE ON SCHEMA identity, consent, billing, work, audit, knowledge TO drp_services;

DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO drp_services', current_database());
END;
$$;
