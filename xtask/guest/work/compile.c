/* A program to compile: a tree of words, counted and sorted, as such programs are. Nothing runs it. */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *left, *right;
    char *word;
    unsigned long count;
    int level;
};

static struct node nil = { &nil, &nil, "", 0, 0 };

static struct node *skew(struct node *at)
{
    if (at->left->level == at->level && at->level != 0) {
        struct node *left = at->left;
        at->left = left->right;
        left->right = at;
        return left;
    }
    return at;
}

static struct node *split(struct node *at)
{
    if (at->right->right->level == at->level && at->level != 0) {
        struct node *right = at->right;
        at->right = right->left;
        right->left = at;
        right->level++;
        return right;
    }
    return at;
}

static struct node *insert(struct node *at, const char *word)
{
    int order;
    if (at == &nil) {
        struct node *made = malloc(sizeof *made);
        if (!made || !(made->word = strdup(word))) {
            perror("no memory");
            exit(1);
        }
        made->left = made->right = &nil;
        made->count = 1;
        made->level = 1;
        return made;
    }
    order = strcmp(word, at->word);
    if (order == 0)
        at->count++;
    else if (order < 0)
        at->left = insert(at->left, word);
    else
        at->right = insert(at->right, word);
    return split(skew(at));
}

static size_t collect(struct node *at, struct node **into, size_t n)
{
    if (at == &nil)
        return n;
    n = collect(at->left, into, n);
    into[n++] = at;
    return collect(at->right, into, n);
}

static size_t size(const struct node *at)
{
    return at == &nil ? 0 : 1 + size(at->left) + size(at->right);
}

static int by_count(const void *a, const void *b)
{
    const struct node *x = *(struct node *const *)a, *y = *(struct node *const *)b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return strcmp(x->word, y->word);
}

static uint32_t checksum(const char *text)
{
    uint32_t sum = 0xffffffff;
    for (; *text; text++) {
        int bit;
        sum ^= (unsigned char)*text;
        for (bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (0xedb88320 & -(sum & 1));
    }
    return ~sum;
}

static double entropy(struct node **all, size_t n)
{
    double total = 0, sum = 0;
    size_t i;
    for (i = 0; i < n; i++)
        total += (double)all[i]->count;
    for (i = 0; i < n; i++) {
        double part = (double)all[i]->count / total, x = 1 - part, term = x, power = x;
        int k;
        for (k = 2; k < 24; k++)
            term += (power *= x) / k;
        sum += part * term;
    }
    return sum;
}

#define STATISTIC(name, type, start, step)                                                             \
    static type name(struct node **all, size_t n)                                                      \
    {                                                                                                  \
        type value = start;                                                                            \
        size_t i;                                                                                      \
        for (i = 0; i < n; i++) {                                                                      \
            const struct node *it = all[i];                                                            \
            step;                                                                                      \
        }                                                                                              \
        return value;                                                                                  \
    }

STATISTIC(longest, size_t, 0, if (strlen(it->word) > value) value = strlen(it->word))
STATISTIC(once, size_t, 0, value += it->count == 1)
STATISTIC(letters, unsigned long, 0, value += it->count *strlen(it->word))
STATISTIC(vowels, unsigned long, 0, for (const char *c = it->word; *c; c++) value += !!strchr("aeiou", *c))
STATISTIC(deepest, int, 0, if (it->level > value) value = it->level)
STATISTIC(mixed, uint32_t, 1, value = value * 31 + checksum(it->word))

int main(int argc, char **argv)
{
    struct node *root = &nil, **all;
    char word[256];
    size_t length = 0, n, i, shown = argc > 1 ? strtoul(argv[1], NULL, 10) : 10;
    int c;
    while ((c = getchar()) != EOF) {
        if (isalnum(c) && length < sizeof word - 1) {
            word[length++] = (char)tolower(c);
        } else if (length) {
            word[length] = 0;
            root = insert(root, word);
            length = 0;
        }
    }
    n = size(root);
    all = calloc(n + 1, sizeof *all);
    if (!all)
        return 1;
    n = collect(root, all, 0);
    qsort(all, n, sizeof *all, by_count);
    for (i = 0; i < n && i < shown; i++)
        printf("%8lu %08x %s\n", all[i]->count, (unsigned)checksum(all[i]->word), all[i]->word);
    printf("%zu words, longest %zu, %zu once, %lu letters, %lu vowels, %d deep, %08x, %.6f\n", n,
           longest(all, n), once(all, n), letters(all, n), vowels(all, n), deepest(all, n),
           (unsigned)mixed(all, n), entropy(all, n));
    return 0;
}
