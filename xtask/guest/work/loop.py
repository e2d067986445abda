# What scripts do: numbers, strings, a dictionary, a class.
class Counter:
    def __init__(self):
        self.seen = {}

    def add(self, word):
        self.seen[word] = self.seen.get(word, 0) + 1


counter = Counter()
total = 0
for i in range(400000):
    total = (total * 31 + i) % 1000003
    counter.add("w%d" % (total % 5000))
words = sorted(counter.seen.items(), key=lambda item: (-item[1], item[0]))
print(total, words[:3], sum(len(word) * n for word, n in words))
