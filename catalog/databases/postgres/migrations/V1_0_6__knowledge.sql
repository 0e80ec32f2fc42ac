-- Articles in pieces, found by meaning and by words. Loaded by the platform, read by the application.

CREATE TABLE knowledge.documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_name text NOT NULL,
    slug text NOT NULL,
    title text NOT NULL,
    language text NOT NULL DEFAULT 'en',
    content_hash text NOT NULL,
    reviewed date,
    tags text[] NOT NULL DEFAULT '{}',
    source text NOT NULL DEFAULT '',
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (set_name, slug)
);
COMMENT ON COLUMN knowledge.documents.content_hash IS 'A re-seed touches only documents whose hash changed';

CREATE TABLE knowledge.chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document_id bigint NOT NULL REFERENCES knowledge.documents ON DELETE CASCADE,
    ordinal integer NOT NULL CHECK (ordinal >= 0),
    text text NOT NULL,
    content_hash text NOT NULL,
    model text NOT NULL,
    embedding vector(256) NOT NULL,
    -- Written by the loader: title with weight A, text with D, in the document's language.
    tsv tsvector NOT NULL,
    UNIQUE (document_id, ordinal)
);
COMMENT ON COLUMN knowledge.chunks.model IS 'Which embedder made the vector; vectors of two models do not compare';

CREATE INDEX chunks_tsv ON knowledge.chunks USING gin (tsv);
-- No HNSW index here: loading into a table that has one is 200 times slower, so the loader builds it
-- after the load.

-- The application searches; loading is the platform's own work and needs no privilege of a service.
GRANT SELECT ON knowledge.documents, knowledge.chunks TO drp_services;
