-- Vectors of several models side by side, of any size. Search walks one model's partial index over
-- knowledge.vectors (built by the loader) and never sees another model's vectors. What the release before
-- uses stays: knowledge.chunks.embedding, knowledge.embeddings and knowledge.terms go with a later contract step.

CREATE TABLE knowledge.models (
    model text PRIMARY KEY,
    -- An HNSW index takes at most 2,000.
    dimensions integer NOT NULL CHECK (dimensions BETWEEN 1 AND 2000),
    state text NOT NULL CHECK (state IN ('building', 'ready', 'active')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When it came into use last.
    switched_at timestamptz
);
COMMENT ON TABLE knowledge.models IS 'Embedders with stored vectors; ready ones are kept to go back to until they are retired';
CREATE UNIQUE INDEX models_one_active ON knowledge.models (state) WHERE state = 'active';

CREATE TABLE knowledge.vectors (
    content_hash text NOT NULL,
    model text NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (content_hash, model)
);
COMMENT ON TABLE knowledge.vectors IS 'Vectors of chunks as the embedders gave them, kept as they are made: what stopped goes on where it was';

CREATE TABLE knowledge.term_vectors (
    lexeme text NOT NULL,
    model text NOT NULL,
    -- The shortest word of the articles that has this lexeme: "medicine" for "medicin".
    word text NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (lexeme, model)
);
COMMENT ON TABLE knowledge.term_vectors IS 'Words of the articles by meaning, for each model';

-- The release before reads this column only while the model in use has 256 numbers, and then it is filled.
-- waive ban-drop-not-null: the release before refuses a store whose model it does not have before it reads this
ALTER TABLE knowledge.chunks ALTER COLUMN embedding DROP NOT NULL;
-- waive require-concurrent-index-creation: a knowledge store of articles has thousands of rows, not millions
CREATE INDEX chunks_content_hash ON knowledge.chunks (content_hash);

-- What is stored already is of one model for every set, or search refused it.
INSERT INTO knowledge.models (model, dimensions, state, switched_at)
SELECT model, 256, 'active', now() FROM knowledge.seeds GROUP BY model ORDER BY max(seeded_at) DESC LIMIT 1;
INSERT INTO knowledge.vectors (content_hash, model, embedding)
SELECT content_hash, model, embedding FROM knowledge.chunks
UNION
SELECT content_hash, model, embedding FROM knowledge.embeddings
ON CONFLICT DO NOTHING;
INSERT INTO knowledge.term_vectors (lexeme, model, word, embedding)
SELECT lexeme, model, word, embedding FROM knowledge.terms;

GRANT SELECT ON knowledge.models, knowledge.vectors, knowledge.term_vectors TO drp_services;
