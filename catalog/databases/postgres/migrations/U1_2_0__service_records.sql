-- Takes what services stored in it along: only for a release that is taken back before it is used.
DROP TABLE work.records;
