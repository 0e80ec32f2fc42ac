-- Everything here is loaded anew from the articles.
DROP TABLE knowledge.chunks, knowledge.documents;
