using Native.Scheduling;

namespace Native.Tests.Scheduling;

public sealed class RingTests
{
    [Fact]
    public void Inbox_RefusesWhenFull_AndTakesAgainWhenOneWasRead()
    {
        Inbox<string> inbox = new(4);
        for (int round = 0; round < 10; round++)
        {
            for (int i = 0; i < 4; i++) Assert.True(inbox.TryEnqueue($"{round}.{i}"));
            Assert.False(inbox.TryEnqueue("too much"));
            for (int i = 0; i < 4; i++)
            {
                Assert.False(inbox.IsEmpty);
                Assert.True(inbox.TryDequeue(out string? item));
                Assert.Equal($"{round}.{i}", item);
            }
            Assert.True(inbox.IsEmpty);
            Assert.False(inbox.TryDequeue(out _));
        }
    }

    [Theory, InlineData(2, 2_000), InlineData(64, 50_000)]
    public async Task Inbox_HandsOverEveryItemOnce_InEachProducersOrder(int capacity, int items)
    {
        const int producers = 4;
        Inbox<Item> inbox = new(capacity);
        Task[] tasks = [.. Enumerable.Range(0, producers).Select(p => Task.Factory.StartNew(() =>
        {
            for (int i = 0; i < items; i++)
            {
                Item item = new(p, i);
                SpinWait spin = default;
                while (!inbox.TryEnqueue(item)) spin.SpinOnce(sleep1Threshold: -1);
            }
        }, TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
        int[] next = new int[producers];
        SpinWait wait = default;
        for (int taken = 0; taken < producers * items;)
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            if (!inbox.TryDequeue(out Item? item))
            {
                wait.SpinOnce(sleep1Threshold: -1);
                continue;
            }
            Assert.Equal(next[item.Producer]++, item.Number);
            taken++;
        }
        await Task.WhenAll(tasks);
        Assert.False(inbox.TryDequeue(out _));
    }

    [Theory, InlineData(2, 5_000), InlineData(64, 200_000)]
    public async Task SpscRing_HandsOverEveryItemOnce_InOrder(int capacity, int items)
    {
        SpscRing<(int, int, long)> ring = new(capacity);
        Task producer = Task.Factory.StartNew(() =>
        {
            for (int i = 0; i < items; i++)
            {
                SpinWait spin = default;
                while (!ring.TryWrite((i, -i, ~(long)i))) spin.SpinOnce(sleep1Threshold: -1);
            }
        }, TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        SpinWait wait = default;
        for (int i = 0; i < items;)
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            if (!ring.TryRead(out (int, int, long) item))
            {
                wait.SpinOnce(sleep1Threshold: -1);
                continue;
            }
            Assert.Equal((i, -i, ~(long)i), item); // never half an item
            i++;
        }
        await producer;
        Assert.False(ring.TryRead(out _));
    }

    [Fact]
    public void BlockPool_CountsReferences_AndNamesContradictions()
    {
        BlockPool pool = new(3);
        Assert.True(pool.TryAllocate(out int a));
        pool.Share(a);
        Assert.True(pool.TryAllocate(out _));
        Assert.True(pool.TryAllocate(out int c));
        Assert.False(pool.TryAllocate(out _));
        Assert.Equal((0, 3), (pool.FreeCount, pool.OwnedCount));
        pool.Release(a);
        Assert.Equal((0, 3, 1), (pool.FreeCount, pool.OwnedCount, pool.References(a)));
        pool.Release(a);
        pool.Release(c);
        Assert.Equal((2, 1), (pool.FreeCount, pool.OwnedCount));
        Assert.Contains("1 references, 0 readers", pool.CheckIntegrity());
        pool.Reset();
        Assert.Null(pool.CheckIntegrity());
        Assert.Equal((3, 0), (pool.FreeCount, pool.OwnedCount));
    }

    private sealed record Item(int Producer, int Number);
}
