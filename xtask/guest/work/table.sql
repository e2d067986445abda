CREATE TABLE word (id INTEGER PRIMARY KEY, name TEXT, weight INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    INSERT INTO word SELECT i, printf('w%05d', i * 7919 % 100003), i * i % 1009 FROM n;
CREATE INDEX by_name ON word (name);
SELECT weight % 10, count(*), sum(weight), min(name), max(name) FROM word GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM word a JOIN word b ON b.name = printf('w%05d', a.weight) WHERE a.id % 3 = 0;
UPDATE word SET weight = weight + 1 WHERE name LIKE 'w00%';
SELECT sum(weight) FROM word WHERE name BETWEEN 'w001' AND 'w009';
