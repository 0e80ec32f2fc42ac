-- What retrieval needs beside articles and chunks: term frequencies for BM25, vectors kept for the
-- next load, and what was loaded from where. Written by the loader, read by the application.

-- Lexemes of the document (a title counts once per chunk); BM25 weighs terms by it.
ALTER TABLE knowledge.documents ADD COLUMN words integer NOT NULL DEFAULT 0 CHECK (words >= 0);

CREATE TABLE knowledge.postings (
    lexeme text NOT NULL,
    document_id bigint NOT NULL REFERENCES knowledge.documents ON DELETE CASCADE,
    frequency integer NOT NULL CHECK (frequency > 0),
    -- Read by lexeme alone, so the index is the table.
    PRIMARY KEY (lexeme, document_id) INCLUDE (frequency)
);
COMMENT ON TABLE knowledge.postings IS 'How often which lexeme occurs in which document; ts_rank has no document frequencies';
CREATE INDEX postings_document ON knowledge.postings (document_id);

CREATE TABLE knowledge.terms (
    lexeme text PRIMARY KEY,
    -- The shortest word of the articles that has this lexeme: "medicine" for "medicin".
    word text NOT NULL,
    model text NOT NULL,
    embedding vector(256) NOT NULL
);
COMMENT ON TABLE knowledge.terms IS 'Words of the articles by meaning, so that "pill" in a question also finds "tablet"';

CREATE TABLE knowledge.embeddings (
    content_hash text NOT NULL,
    model text NOT NULL,
    embedding vector(256) NOT NULL,
    PRIMARY KEY (content_hash, model)
);
COMMENT ON TABLE knowledge.embeddings IS 'Vectors of chunks as the embedder gave them, so that a load that stopped goes on where it was';

CREATE TABLE knowledge.seeds (
    set_name text NOT NULL,
    source text NOT NULL,
    model text NOT NULL,
    languages text[] NOT NULL,
    documents integer NOT NULL CHECK (documents >= 0),
    words bigint NOT NULL CHECK (words >= 0),
    seeded_at timestamptz NOT NULL,
    PRIMARY KEY (set_name, source)
);
COMMENT ON TABLE knowledge.seeds IS 'One row per set and source: when it was last compared, and with which embedder';
COMMENT ON COLUMN knowledge.seeds.words IS 'Sum over its documents, for the average length that BM25 needs';

GRANT SELECT ON knowledge.postings, knowledge.terms, knowledge.seeds TO drp_services;
