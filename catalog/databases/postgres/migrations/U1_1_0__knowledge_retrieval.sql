-- Everything here is loaded anew from the articles.
DROP TABLE knowledge.seeds, knowledge.embeddings, knowledge.terms, knowledge.postings;
ALTER TABLE knowledge.documents DROP COLUMN words;
