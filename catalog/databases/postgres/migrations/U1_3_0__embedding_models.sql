-- What only another model can find is loaded anew from the articles.
DELETE FROM knowledge.documents d USING knowledge.chunks c WHERE c.document_id = d.id AND c.embedding IS NULL;
DROP INDEX knowledge.chunks_content_hash;
ALTER TABLE knowledge.chunks ALTER COLUMN embedding SET NOT NULL;
DROP TABLE knowledge.vectors, knowledge.term_vectors, knowledge.models;
