; The primes below 100, by trial division. Nearly all of it is innocuous, so that a monitor has next to nothing to
; do: compare the steps with the traps.

        .equ limit, 100

start:  SET  n, 2
try:    SET  d, 2
again:  MOV  t, d               ; no divisor up to the root: a prime
        MUL  t, d
        MOV  u, n
        SLT  u, t
        BNZ  u, prime
        MOV  t, n
        MOD  t, d
        BZ   t, next
        ADD  d, =1
        JMP  again
prime:  CALL back, print
next:   ADD  n, =1
        MOV  t, n
        SLT  t, =limit
        BNZ  t, try
        OUT  ='\n'
        HALT

print:  MOV  t, n               ; two digits, the first only if it is not 0
        DIV  t, =10
        BZ   t, units
        ADD  t, ='0'
        OUT  t
units:  MOV  t, n
        MOD  t, =10
        ADD  t, ='0'
        OUT  t
        OUT  =' '
        RET  back

n:      .word 0
d:      .word 0
t:      .word 0
u:      .word 0
back:   .word 0
