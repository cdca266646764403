"""Time that passes only while everybody sleeps, so that queues can be checked against theory."""

import threading


class Clock:
    """For one thread: a sleep moves the time on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class SharedClock:
    """For several threads: when all of those alive sleep, the time moves to the first who wakes."""

    def __init__(self):
        self.now = 0.0
        self._turn = threading.Condition()
        self._wakes = []
        self._others = set(threading.enumerate())

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        with self._turn:
            wake = self.now + seconds
            self._wakes.append(wake)
            while self.now < wake:
                if len(self._wakes) == len(set(threading.enumerate()) - self._others):
                    self.now = min(self._wakes)
                    self._wakes = [each for each in self._wakes if each > self.now]
                    self._turn.notify_all()
                else:
                    self._turn.wait(0.01)  # a thread that ends tells nobody
