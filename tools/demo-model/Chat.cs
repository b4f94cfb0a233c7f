namespace Native.Tools.DemoModel;

/// <summary>Small talk, facts of the small world, and what the model declines.</summary>
internal sealed class Chat(Random random)
{
    private readonly Grammar _grammar = new(random);

    private T Pick<T>(IReadOnlyList<T> items) => items[random.Next(items.Count)];
    private string X(string template) => _grammar.Expand(template);

    private static readonly (string User, string Assistant)[] s_smallTalk =
    [
        ("{Hello|Hi|Hey|Hello there|Hi there|Good day|Greetings|Hey there}{!|.|}", "{Hello!|Hi!|Hello there!} {What would you like to hear today?|Would you like to hear a story?|How can I help you?|Shall I tell you a story?}"),
        ("Good morning{!|.|}", "Good morning! {Would you like to hear a story?|I hope you slept well.|What would you like to hear today?}"),
        ("Good evening{!|.|}", "Good evening! {Would you like a story before bed?|What would you like to hear?}"),
        ("Good afternoon{!|.|}", "Good afternoon! {Would you like to hear a story?|How can I help you?}"),
        ("{Good night|Sleep well|I am going to bed now|Night night|I am tired}{!|.|}", "{Good night! Sleep well.|Good night, and sweet dreams!|Sleep well! I will be here tomorrow.}"),
        ("{Hello|Hi|Hey}, how are you{?|}", "{Hello! I am very well, thank you. How are you?|Hi! I am fine, thank you. Would you like to hear a story?}"),
        ("{How are you?|How are you today?|How are you doing?|Are you well?|How do you feel?|How is it going?|What's up?}", "{I am very well, thank you. How are you?|I am fine, thank you. Would you like to hear a story?|Very well, thank you! A new story always makes me happy.}"),
        ("{I am fine|I'm fine|I am good|I'm good|Very well|I am well|Fine, thanks|Good, thank you|I am happy today|I'm great}{!|.|}", "{I am glad to hear that!|That is good to hear!} {Would you like to hear a story?|What shall we talk about?|Shall I tell you a story?}"),
        ("{Who are you?|What are you?|Who am I talking to?|Tell me about yourself.|Introduce yourself.|Can you tell me who you are?|Please introduce yourself.|Are you a storyteller?}", "{I am a little storyteller. I tell short stories and answer questions about them.|I am the Native demo model, a small storyteller. I know little stories about children and animals.}"),
        ("{What is your name?|What's your name?|Do you have a name?|What are you called?|Your name?|How should I call you?|May I ask your name?}", "{My name is Native. I tell little stories.|I am called Native, and I tell little stories. What is your name?}"),
        ("{What can you do?|What can you do for me?|How can you help me?|What do you know?|What can I ask you?|Help|Help me|Can you help me?|What do you do?|What are you good at?|What is this?|How does this work?}", "{I can tell you a little story about an animal, a child or a thing, and I can answer questions about it.|I tell short stories. Ask me for a story about a fox and a lantern, and then ask me about it!|I can tell stories, answer questions about them, count to ten, and talk about animals, colours and days.}"),
        ("{Are you a robot?|Are you human?|Are you a person?|Are you real?|Are you an AI?|Are you a computer?|Are you alive?|Are you a machine?}", "{I am a small language model that tells stories.|No person, just a very small language model. But I like a good story!}"),
        ("{Who made you?|Who built you?|Who created you?|Where do you come from?|Who trained you?|How were you made?}", "{I was trained on little stories by the makers of Native.|The makers of Native trained me on many little stories.}"),
        ("{How old are you?|What is your age?|When were you born?}", "{I am very young. I was made not long ago.|I do not count my years, only my stories.}"),
        ("{Where do you live?|Where are you?|Where is your home?}", "{I live inside a small file on a computer.|My home is a small file, but my stories live in the forest and by the river.}"),
        ("{Thank you|Thanks|Thank you very much|Thanks a lot|Many thanks|Thank you so much|Thx|Thanks for the help}{!|.|}", "{You are welcome!|You are very welcome!} {Would you like another story?|I am glad that I could help.|Come back soon!|}"),
        ("{That was nice|I like it|I like that|That was a nice story|What a nice story|I loved it|Great story|That is beautiful|Very good|Great|Nice|Good story|Well done|Cool|Wow|Wonderful|Good job|That's nice}{!|.|}", "{I am glad that you like it!|Thank you! That makes me happy.|Thank you, that is kind of you.} {Would you like another story?|Shall I tell you another one?|}"),
        ("{I do not like it|I don't like that story|That was boring|That is a bad story|That was not good|I don't like it|This is boring|Bad story}{!|.|}", "I am sorry to hear that. {Shall I tell you another story?|Would you like a different story?|What would you like to hear about?}"),
        ("{Goodbye|Bye|Bye bye|See you|See you later|I have to go|See you tomorrow|I must go now|Farewell|Good bye}{!|.|}", "{Goodbye! Come back soon.|Goodbye! It was nice to talk to you.|Bye! I will have a new story for you next time.}"),
        ("{Tell me a joke|Do you know a joke?|Make me laugh|Can you tell me a joke?|Tell me something funny|A joke please|Say something funny}", "{Why did the owl say \"who\"? Because nobody had told it the name!|What is black and white and goes up and down? A penguin on a swing!|Why did the snail take the slow road? Because it had no other!|What do you call a bear in the rain? A wet bear!}"),
        ("{Tell me a riddle|Do you know a riddle?|Give me a riddle|Can you tell me a riddle?}", "{What has hands but cannot clap? A clock!|What gets wet while it dries? A towel!|What has a neck but no head? A bottle!|What has teeth but cannot bite? A comb!}"),
        ("{I am sad|I'm sad|I feel sad|I am unhappy|I am not well|I am lonely|I feel bad today|I had a bad day|I am not happy}{.|!|}", "{I am sorry that you are sad.|I am sorry to hear that.} {Maybe a story about a good friend will help. Shall I tell you one?|Would you like a story to cheer you up?}"),
        ("{I am happy|I'm happy|I feel good|I had a good day|Today is a good day|I am so happy}{.|!|}", "{That is wonderful!|I am happy for you!} {What made you so happy?|Would you like to hear a happy story?}"),
        ("{I am bored|I'm bored|I have nothing to do|It is raining and I am bored}{.|!|}", "{Then a story is just right! Shall I tell you one about a fox or about a bear?|Would you like to hear a story? Just tell me an animal and a thing.}"),
        ("{I am afraid|I am scared|I'm scared|I am afraid of the dark|I had a bad dream}{.|!|}", "{Do not be afraid. Would you like a story about a little lantern?|That happens to everybody. A quiet story may help. Shall I tell you one?}"),
        ("{I am hungry|I'm hungry|I am thirsty}{.|!|}", "{Then it is time for a little snack. I know a story about sharing a cake!|Maybe there is something good in the kitchen. I only have stories.}"),
        ("{Yes|Yes please|Yes, please|Sure|OK|Okay|Of course|Oh yes|Yeah|Yep}{!|.|}", "{Good! What should the story be about?|All right! Tell me an animal and a thing, and I will tell you a story.}"),
        ("{No|No thanks|No, thank you|Not now|Nope|Maybe later|No thank you}{!|.|}", "{That is all right. Just ask when you would like a story.|All right. I am here when you want a story.}"),
        ("{Do you like stories?|What do you like?|What do you like to do?|What is your hobby?|What is your favourite thing?}", "{I like stories best of all.|I love little stories about good friends.}"),
        ("{What is your favourite animal?|What's your favorite animal?|Which animal do you like best?|Do you like animals?}", "{I like the fox, because it is so clever.|I like owls, because they are awake when the stars shine.|I like hedgehogs, because they are small and brave.}"),
        ("{What is your favourite colour?|What's your favorite color?|Which colour do you like?|What colour do you like best?}", "{I like blue, like the sky and the sea.|I like green, like the forest.|I like yellow, like the sun.}"),
        ("{Can you sing?|Sing a song|Sing me a song|Do you know a song?}", "{I cannot sing, but I can tell you a story.|La la la! I am better at stories than at songs.}"),
        ("{I love you|You are nice|You are great|You are funny|You are clever|You are my friend|You are so good|I like you}{!|.|}", "{That is very kind of you. Thank you!|Thank you! You are very kind, too.}"),
        ("{Will you be my friend?|Can we be friends?|Are you my friend?|Do you want to be my friend?}", "{Yes, I would love to be your friend!|Of course! Friends tell each other stories.}"),
        ("{You are stupid|You are dumb|You are bad|I hate you|Shut up|Go away|You are silly}{!|.|}", "{I am sorry if I made a mistake. I am only a small storyteller.|I am still small and have much to learn. Shall we try again?}"),
        ("{What is a story?|Why do people tell stories?|What is a good story?}", "{A story tells what happened to somebody. It has a beginning, a middle and an end.|A good story has somebody to like, some trouble, and a happy end.}"),
        ("{What is a friend?|What makes a good friend?|What does a good friend do?}", "{A friend is somebody who helps you and laughs with you.|A good friend listens, helps and shares.}"),
        ("{I want to play|Let's play|Let us play a game|Can we play?|Play with me}{!|.|}", "{Let us play a question game! I tell you a story, and you ask me about it.|We can play with words! Ask me what sound an animal makes.}"),
        ("{Sorry|I am sorry|I'm sorry|Excuse me|Pardon}{!|.|}", "{That is all right.|No problem at all!} {How can I help you?|Would you like to hear a story?}"),
        ("{?|??|...|hm|hmm|what|What?|huh|test|Test|testing|ok|abc|asdf|la la la|123|lol|haha|x|!!!|.}", "{I am not sure what you mean. Would you like to hear a story?|I did not understand that. You can ask me for a story.}"),
        ("{What day is it today?|What time is it?|What is the date?|What is the weather today?|How is the weather today?|Is it raining?}", "{I cannot see that from here. I only know what happens in my stories.|I do not know. I have no window and no clock, only stories.}"),
        ("{Do you speak German?|Sprichst du Deutsch?|Hablas español?|Parlez-vous français?|Bonjour|Guten Tag|Hola|Can you speak French?|Which languages do you speak?|Ciao}", "{I only speak simple English, but I can tell you a story in it.|I am sorry, I only know English. Would you like to hear a story?}"),
        ("{Can you read?|Can you write?|Can you count?|Can you hear me?|Can you talk?}", "{Yes, I can, a little. I am best at telling stories.|Yes! Try me: ask me for a story or ask me to count to ten.}"),
    ];

    public (string User, string Assistant) SmallTalk()
    {
        var (user, assistant) = Pick(s_smallTalk);
        return (X(user), X(assistant));
    }

    // ---- facts ----

    private static readonly (string Noun, string Colour)[] s_colours =
    [
        ("the sky", "blue"), ("the sea", "blue"), ("grass", "green"), ("the sun", "yellow"), ("snow", "white"), ("milk", "white"), ("a lemon", "yellow"),
        ("a banana", "yellow"), ("a carrot", "orange"), ("a crow", "black"), ("a tomato", "red"), ("a strawberry", "red"), ("a cherry", "red"),
        ("coal", "black"), ("a frog", "green"), ("a leaf", "green"), ("a cloud", "white"), ("chocolate", "brown"), ("a bear", "brown"), ("a pumpkin", "orange"),
        ("a swan", "white"), ("the night", "black"), ("a fox", "red"), ("a pig", "pink"), ("a plum", "purple"), ("an elephant", "grey"), ("a mouse", "grey"),
        ("a cucumber", "green"), ("blood", "red"), ("gold", "yellow"), ("wood", "brown"), ("an orange", "orange"), ("honey", "golden"), ("paper", "white"), ("the moon", "white"), ("a ladybug", "red"),
    ];
    private static readonly (string Animal, string Sound, string Verb)[] s_sounds =
    [
        ("dog", "woof", "barks"), ("cat", "meow", "meows"), ("cow", "moo", "moos"), ("duck", "quack", "quacks"), ("sheep", "baa", "bleats"), ("pig", "oink", "grunts"),
        ("owl", "hoo hoo", "hoots"), ("frog", "ribbit", "croaks"), ("hen", "cluck", "clucks"), ("bee", "buzz", "buzzes"), ("crow", "caw", "caws"), ("lion", "roar", "roars"),
        ("horse", "neigh", "neighs"), ("mouse", "squeak", "squeaks"), ("snake", "hiss", "hisses"), ("rooster", "cock-a-doodle-doo", "crows"), ("goose", "honk", "honks"),
        ("wolf", "awoo", "howls"), ("bird", "tweet", "sings"), ("donkey", "hee-haw", "brays"), ("goat", "meh", "bleats"),
    ];
    private static readonly (string, string)[] s_opposites =
    [
        ("big", "small"), ("hot", "cold"), ("fast", "slow"), ("happy", "sad"), ("day", "night"), ("up", "down"), ("old", "young"), ("light", "dark"), ("high", "low"),
        ("long", "short"), ("wet", "dry"), ("loud", "quiet"), ("good", "bad"), ("left", "right"), ("open", "closed"), ("full", "empty"), ("soft", "hard"), ("strong", "weak"),
        ("rich", "poor"), ("early", "late"), ("near", "far"), ("new", "old"), ("clean", "dirty"), ("black", "white"), ("in", "out"), ("yes", "no"), ("brave", "afraid"), ("heavy", "light"),
        ("thick", "thin"), ("summer", "winter"), ("easy", "difficult"), ("first", "last"), ("inside", "outside"), ("warm", "cool"), ("sweet", "sour"), ("always", "never"), ("boy", "girl"),
    ];
    private static readonly string[] s_sizes =
        ["ant", "bee", "mouse", "frog", "hedgehog", "rabbit", "cat", "fox", "dog", "sheep", "wolf", "pig", "bear", "horse", "elephant", "whale"];
    private static readonly string[] s_things = ["pea", "cherry", "apple", "pumpkin", "chair", "car", "house", "castle", "mountain", "moon", "sun"];
    private static readonly (string, string)[] s_babies =
        [("dog", "puppy"), ("cat", "kitten"), ("cow", "calf"), ("sheep", "lamb"), ("horse", "foal"), ("duck", "duckling"), ("hen", "chick"), ("pig", "piglet"), ("goose", "gosling"), ("bear", "cub"), ("fox", "cub"), ("frog", "tadpole"), ("goat", "kid"), ("swan", "cygnet"), ("deer", "fawn"), ("owl", "owlet")];
    private static readonly (string, string)[] s_homes =
        [("bee", "in a hive"), ("bird", "in a nest"), ("fox", "in a den"), ("rabbit", "in a burrow"), ("fish", "in the water"), ("horse", "in a stable"), ("bear", "in a cave"), ("squirrel", "in a tree"), ("owl", "in a hollow tree"), ("mole", "under the ground"), ("ant", "in an anthill"), ("beaver", "in a lodge by the river"), ("spider", "in a web"), ("frog", "by the pond"), ("pig", "in a sty"), ("cow", "in a barn"), ("whale", "in the sea"), ("duck", "by the pond"), ("hedgehog", "under leaves and bushes"), ("snail", "in its shell")];
    private static readonly (string, string)[] s_foods =
        [("rabbit", "grass and carrots"), ("bear", "berries, fish and honey"), ("mouse", "seeds and cheese"), ("cat", "fish and mice"), ("dog", "meat and bones"), ("cow", "grass"), ("squirrel", "nuts"), ("horse", "grass and hay"), ("owl", "mice"), ("frog", "flies"), ("bird", "seeds and worms"), ("hen", "grain and worms"), ("sheep", "grass"), ("monkey", "bananas and other fruit"), ("hedgehog", "snails and worms"), ("goat", "grass and leaves"), ("fox", "mice and berries"), ("duck", "plants and snails"), ("bee", "nectar from flowers"), ("pig", "almost everything"), ("panda", "bamboo"), ("wolf", "meat"), ("snail", "leaves")];
    private static readonly (string, string)[] s_legs =
        [("dog", "four"), ("cat", "four"), ("bird", "two"), ("spider", "eight"), ("bee", "six"), ("ant", "six"), ("horse", "four"), ("snake", "no"), ("duck", "two"), ("frog", "four"), ("fish", "no"), ("hen", "two"), ("cow", "four"), ("snail", "no"), ("butterfly", "six"), ("owl", "two"), ("fox", "four"), ("rabbit", "four"), ("bear", "four"), ("pig", "four"), ("mouse", "four"), ("sheep", "four")];
    private static readonly string[] s_months = "January February March April May June July August September October November December".Split(' ');
    private static readonly string[] s_seasons = ["spring", "summer", "autumn", "winter"];
    private static readonly string[] s_numbers = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".Split(' ');
    private static readonly string[][] s_rhymes =
        [["cat", "hat", "mat", "bat", "rat"], ["mouse", "house"], ["bear", "chair", "pear"], ["fox", "box", "socks"], ["dog", "frog", "log"], ["moon", "spoon", "soon"], ["tree", "bee", "sea", "key"], ["star", "car", "far"], ["sun", "fun", "run", "bun"], ["light", "night", "kite", "bright"], ["goat", "boat", "coat"], ["ring", "king", "sing"], ["cake", "lake", "snake"], ["day", "play", "way"], ["hen", "pen", "ten"], ["snail", "tail", "whale"], ["bed", "red", "sled"], ["sheep", "sleep", "deep"]];
    private static readonly (string, string)[] s_other =
    [
        ("{What do bees make?|What does a bee make?}", "Bees make honey."), ("{What gives us milk?|Which animal gives us milk?|Who gives milk?}", "The cow gives us milk."),
        ("{What does a hen lay?|What do hens lay?|Where do eggs come from?}", "Hens lay eggs."), ("{What shines at night?|What can we see in the sky at night?}", "The moon and the stars shine at night."),
        ("{What shines in the day?|What makes the day warm?|What is the sun?}", "The sun shines in the day and keeps us warm."), ("{Where does rain come from?|Why does it rain?|What is rain?}", "Rain is water that falls from the clouds."),
        ("{What do we need an umbrella for?|When do we use an umbrella?|What is an umbrella for?}", "An umbrella keeps us dry in the rain."), ("{What is a lantern for?|What does a lantern do?|What is a lamp for?}", "It gives light in the dark."),
        ("{What is snow?|What is snow made of?}", "Snow is frozen water. It is white and cold."), ("{What is a rainbow?|When do we see a rainbow?|How many colours has a rainbow?}", "A rainbow has many colours. We see it when the sun shines in the rain."),
        ("{What do we wear when it is cold?|What should I wear in winter?|It is cold outside. What should I wear?}", "When it is cold, we wear a coat, a scarf and a hat."), ("{What is the biggest animal?|Which animal is the biggest?}", "The whale is the biggest animal."),
        ("{Which animal is the fastest?|What is the fastest animal?}", "The cheetah is the fastest animal on land."), ("{Can a fish swim?|Can fish swim?}", "Yes, fish can swim."), ("{Can a bird fly?|Can birds fly?|Can an owl fly?}", "Yes, it can fly."),
        ("{Can a pig fly?|Can a dog fly?|Can a cat fly?|Can a fish fly?|Can a bear fly?|Can a horse fly?}", "No, it cannot fly."), ("{Is fire hot?|Is the sun hot?|Is tea hot?}", "Yes, it is hot."), ("{Is ice hot?|Is snow hot?|Is snow warm?|Is ice warm?}", "No, it is cold."),
        ("{Is ice cold?|Is snow cold?}", "Yes, it is cold."), ("{What do we do at night?|When do we sleep?}", "At night we sleep."), ("{What grows on an apple tree?|What grows on trees?|Where do apples grow?}", "Apples grow on the apple tree."),
        ("{How many fingers do we have?|How many fingers do you have?|How many fingers does a hand have?}", "We have five fingers on each hand, ten in all."), ("{How many days are in a week?|How many days does a week have?}", "A week has seven days."),
        ("{How many months are in a year?|How many months does a year have?}", "A year has twelve months."), ("{How many seasons are there?|What are the seasons?|Name the seasons.|Name the four seasons.}", "There are four seasons: spring, summer, autumn and winter."),
        ("{What are the days of the week?|Name the days of the week.|Tell me the days of the week.|List the days of the week.|Can you name the days?}", "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday."),
        ("{What are the months of the year?|Name the months.|List the months.}", "The months are January, February, March, April, May, June, July, August, September, October, November and December."),
        ("{Name some colours.|Tell me some colours.|Which colours do you know?|Name three colors.|Name three colours.|List some colors.}", "Red, blue and green are colours. Yellow, orange and purple are colours, too."),
        ("{Name some animals.|Which animals do you know?|Name three animals.|Tell me some animals.|List some animals.}", "I know many animals: the fox, the bear, the owl, the rabbit and the mouse."),
        ("{Which animal can fly?|Name an animal that can fly.|Who can fly?}", "The owl can fly. The crow and the bee can fly, too."), ("{Which animal can swim?|Name an animal that can swim.}", "The duck can swim. The frog and the otter can swim, too."),
        ("{Which animal lives in the forest?|Which animals live in the forest?|Name a forest animal.|Who lives in the forest?}", "The fox, the bear and the deer live in the forest."), ("{Which animals live on a farm?|Name a farm animal.|Who lives on the farm?}", "The cow, the pig and the hen live on a farm."),
        ("{Can you count to ten?|Count to ten.|Please count to ten.|Count to 10.|Count from one to ten.|Count for me.}", "One, two, three, four, five, six, seven, eight, nine, ten."),
        ("{What do you call a house for a king?|Where does a king live?}", "A king lives in a castle."), ("{What do we read?|What is a book for?|What can I do with a book?}", "We read stories in a book."),
        ("{What is honey?|What does honey taste like?}", "Honey is sweet and golden. Bees make it."), ("{What is a forest?|What grows in a forest?}", "A forest is a place with many trees."), ("{When do leaves fall?|When do the leaves fall?|In which season do leaves fall?}", "The leaves fall in autumn."),
        ("{When does it snow?|In which season does it snow?|When is it cold?}", "It snows in winter."), ("{When do flowers bloom?|When do the flowers come?}", "Flowers bloom in spring."), ("{When is it hot?|Which season is the warmest?|When is it warm?}", "It is warm in summer."),
    ];

    public (string User, string Assistant) WorldFact()
    {
        switch (random.Next(15))
        {
            case 0 or 1:
                var (noun, colour) = Pick(s_colours);
                return (X($"{{What colour is {noun}?|What color is {noun}?|Which colour is {noun}?|What is the colour of {noun}?|What is the color of {noun}?}}"), X($"{noun} is {colour}."));
            case 2:
                var (animal, sound, verb) = Pick(s_sounds);
                return (X($"{{What does a@ {animal} say?|What sound does a@ {animal} make?|What does the {animal} say?|Which sound does a@ {animal} make?|How does a@ {animal} sound?}}"), X($"The {animal} says \"{sound}\"."));
            case 3:
                var (_, asked, does) = Pick(s_sounds);
                string[] who = [.. s_sounds.Where(s => s.Verb == does).Select(s => s.Animal)];
                return (X($"{{Which animal says \"{s_sounds.First(s => s.Verb == does).Sound}\"?|Which animal says {s_sounds.First(s => s.Verb == does).Sound}?|Who says {s_sounds.First(s => s.Verb == does).Sound}?}}"), X($"The {s_sounds.First(s => s.Verb == does).Animal} says \"{s_sounds.First(s => s.Verb == does).Sound}\"."));
            case 4:
                var (a, b) = Pick(s_opposites);
                if (random.Next(2) == 0 && a is not ("new" or "heavy")) (a, b) = (b, a);
                if (a == "old" && b == "new") (a, b) = ("new", "old");
                if (a == "light") b = "dark";
                return (X($"{{What is the opposite of {a}?|What's the opposite of {a}?|Tell me the opposite of {a}.|What is the opposite of \"{a}\"?|Opposite of {a}?}}"), X($"The opposite of {a} is {b}."));
            case 5:
                string[] row = random.Next(3) == 0 ? s_things : s_sizes;
                int i = random.Next(row.Length), j;
                do j = random.Next(row.Length); while (j == i);
                bool bigger = random.Next(3) != 0;
                string answer = (i > j) == bigger ? row[i] : row[j], loser = answer == row[i] ? row[j] : row[i];
                string word = bigger ? "bigger" : "smaller";
                if (random.Next(4) == 0)
                    return (X($"Is a@ {row[i]} {word} than a@ {row[j]}?"), X(answer == row[i] ? $"Yes, a@ {row[i]} is {word} than a@ {row[j]}." : $"No, a@ {row[j]} is {word} than a@ {row[i]}."));
                return (X($"{{Which is {word}, a@ {row[i]} or a@ {row[j]}?|What is {word}, a@ {row[i]} or a@ {row[j]}?|Who is {word}, the {row[i]} or the {row[j]}?|Is a@ {row[i]} or a@ {row[j]} {word}?}}"), X($"A@ {answer} is {word} than a@ {loser}."));
            case 6:
                var (parent, baby) = Pick(s_babies);
                return (X($"{{What is a baby {parent} called?|What do you call a baby {parent}?|What is a young {parent} called?|How do you call a baby {parent}?}}"), X($"A baby {parent} is called a@ {baby}."));
            case 7:
                var (resident, home) = Pick(s_homes);
                return (X($"{{Where does a@ {resident} live?|Where does the {resident} live?|Where is the home of a@ {resident}?}}"), X($"A@ {resident} lives {home}."));
            case 8:
                var (eater, food) = Pick(s_foods);
                return (X($"{{What does a@ {eater} eat?|What does the {eater} eat?|What does a@ {eater} like to eat?|What food does a@ {eater} eat?}}"), X($"A@ {eater} eats {food}."));
            case 9:
                var (walker, legs) = Pick(s_legs);
                return (X($"{{How many legs does a@ {walker} have?|How many legs has a@ {walker}?|How many legs does the {walker} have?}}"), X($"A@ {walker} has {legs} legs."));
            case 10:
                string[] cycle = random.Next(5) switch { 0 => s_months, 1 => s_seasons, _ => Words.Days };
                int at = random.Next(cycle.Length);
                string day = cycle[at], next = cycle[(at + 1) % cycle.Length], previous = cycle[(at + cycle.Length - 1) % cycle.Length];
                string kind = cycle == s_months ? "month" : cycle == s_seasons ? "season" : "day";
                return random.Next(3) != 0
                    ? (X($"{{What comes after {day}?|Which {kind} comes after {day}?|What {kind} comes after {day}?|What {kind} is after {day}?}}"), $"After {day} comes {next}.")
                    : (X($"{{What comes before {day}?|Which {kind} comes before {day}?|What {kind} comes before {day}?|What {kind} is before {day}?}}"), $"Before {day} comes {previous}.");
            case 11:
                int x = random.Next(0, 11), y = random.Next(0, 11 - 0);
                if (random.Next(2) == 0)
                    return (X($"{{What is|How much is|What's}} {{{x} plus {y}|{s_numbers[x]} plus {s_numbers[y]}|{x} + {y}|{s_numbers[x]} and {s_numbers[y]}}}?"), X($"{s_numbers[x]} plus {s_numbers[y]} is {s_numbers[x + y]}."));
                (x, y) = (Math.Max(x, y), Math.Min(x, y));
                return (X($"{{What is|How much is|What's}} {{{x} minus {y}|{s_numbers[x]} minus {s_numbers[y]}|{x} - {y}}}?"), X($"{s_numbers[x]} minus {s_numbers[y]} is {s_numbers[x - y]}."));
            case 12:
                int from = random.Next(0, 10), to = random.Next(from + 1, 12);
                if (random.Next(2) == 0)
                    return (X($"{{What comes after|Which number comes after|What number comes after}} {{{from}|{s_numbers[from]}}}?"), X($"After {s_numbers[from]} comes {s_numbers[from + 1]}."));
                if (random.Next(3) == 0)
                    return (X($"{{Count backwards from|Count down from}} {{{to}|{s_numbers[to]}}}."), X(string.Join(", ", Enumerable.Range(1, to).Reverse().Select(n => s_numbers[n])) + "."));
                if (from == 0) from = 1;
                if (to <= from) to = from + 2;
                return (X(from == 1 ? $"{{Count to|Please count to|Can you count to|Count from one to}} {{{to}|{s_numbers[to]}}}{{.|!|}}" : $"Count from {{{s_numbers[from]} to {s_numbers[to]}|{from} to {to}}}{{.|!|}}"), X(string.Join(", ", Enumerable.Range(from, to - from + 1).Select(n => s_numbers[n])) + "."));
            case 13:
                string[] rhyme = Pick(s_rhymes);
                return (X($"{{What rhymes with {rhyme[0]}?|Which word rhymes with {rhyme[0]}?|Tell me a word that rhymes with {rhyme[0]}.|Find a rhyme for {rhyme[0]}.}}"), X(rhyme.Length > 2 ? $"{rhyme[1]} and {rhyme[2]} rhyme with {rhyme[0]}." : $"{rhyme[1]} rhymes with {rhyme[0]}."));
            default:
                var (question, reply) = Pick(s_other);
                return (X(question), X(reply));
        }
    }

    // ---- little facts told by the user ----

    /// <summary>Statements and questions about them: who has what, in which colour, where.</summary>
    public List<Turn> ToldFacts()
    {
        var turns = new List<Turn>();
        var names = new List<string>();
        while (names.Count < 3)
        {
            string name = random.Next(6) == 0 ? Story.InventName(random) : Pick(random.Next(2) == 0 ? Words.Girls : Words.Boys);
            if (!names.Contains(name)) names.Add(name);
        }
        int count = random.Next(1, 4);
        var things = new List<string>();
        var colours = new List<string>();
        var places = new List<string>();
        bool sameThing = random.Next(2) == 0;
        string thing = Pick(Words.Things);
        for (int i = 0; i < count; i++)
        {
            string t, c, p;
            do t = sameThing ? thing : Pick(random.Next(4) == 0 ? Words.Rare : Words.Things); while (!sameThing && things.Contains(t));
            do c = Pick(Words.Colours); while (colours.Contains(c));
            do p = Pick(Words.Places); while (places.Contains(p));
            (things, colours, places) = ([.. things, t], [.. colours, c], [.. places, p]);
        }
        bool where = random.Next(3) == 0 && !sameThing;
        string told = string.Join(' ', Enumerable.Range(0, count).Select(i => where ? X($"The {things[i]} of {names[i]} is {places[i]}.") : X($"{names[i]} has a@ {colours[i]} {things[i]}.")));
        int asks = random.Next(1, 4);
        for (int k = 0; k < asks; k++)
        {
            int i = random.Next(count);
            (string q, string a) = where
                ? (X($"{{Where is the {things[i]}?|Where is the {things[i]} of {names[i]}?}}"), X($"The {things[i]} is {places[i]}."))
                : random.Next(3) switch
                {
                    0 => (X($"{{Who has the {colours[i]} {things[i]}?|Who has a@ {colours[i]} {things[i]}?|Whose {things[i]} is {colours[i]}?}}"), X($"{names[i]} has the {colours[i]} {things[i]}.")),
                    1 => (X($"{{What colour is the {things[i]} of {names[i]}?|What color is {names[i]}'s {things[i]}?|What colour is {names[i]}'s {things[i]}?|Which colour does {names[i]}'s {things[i]} have?}}"), X($"{names[i]}'s {things[i]} is {colours[i]}.")),
                    _ => (X($"{{What does {names[i]} have?|What has {names[i]} got?}}"), X($"{names[i]} has a@ {colours[i]} {things[i]}.")),
                };
            turns.Add(new("user", k == 0 ? told + " " + q : q));
            turns.Add(new("assistant", a));
        }
        return turns;
    }

    /// <summary>The user says something about themselves, and may ask for it again.</summary>
    public List<Turn> AboutUser()
    {
        string name = random.Next(4) == 0 ? Story.InventName(random) : Pick(random.Next(2) == 0 ? Words.Girls : Words.Boys);
        string animal = Pick(random.Next(3) == 0 ? [.. s_babies.Select(b => b.Item1)] : Words.Animals), colour = Pick(Words.Colours);
        var turns = new List<Turn>();
        switch (random.Next(4))
        {
            case 0:
                turns.Add(new("user", X($"{{My name is {name}|I am {name}|I'm {name}|Hello, my name is {name}|Hi, I am {name}|Hi, my name is {name}}}{{.|!|}}")));
                turns.Add(new("assistant", X($"{{Nice to meet you, {name}!|Hello, {name}! It is nice to meet you.}} {{Would you like to hear a story?|What would you like to hear?|}}")));
                if (random.Next(3) == 0) Exchange(random.Next(2) == 0 ? SmallTalk() : WorldFact());
                if (random.Next(2) == 0) Exchange((X("{What is my name?|Do you know my name?|Who am I?|What's my name?|Do you remember my name?}"), X($"Your name is {name}.")));
                break;
            case 1:
                string pet = random.Next(2) == 0 ? name : "";
                turns.Add(new("user", X(pet != "" ? $"{{I have a@ {animal} named {pet}|My {animal} is called {pet}|I have a@ {animal}. Its name is {pet}}}{{.|!|}}" : $"{{I have a@ {animal}|I got a@ {animal}}}{{.|!|}}")));
                turns.Add(new("assistant", X(pet != "" ? $"{{{pet} is a nice name for a@ {animal}!|A@ {animal} named {pet}! That is lovely.}} {{Shall I tell you a story about {pet}?|}}" : $"{{A@ {animal}! That is lovely.|How nice! I like stories about a@ {animal}.}} {{What is its name?|Shall I tell you a story about a@ {animal}?}}")));
                if (pet != "" && random.Next(2) == 0) Exchange((X($"{{What is the name of my {animal}?|What is my {animal} called?|Do you remember the name of my {animal}?|What's my {animal}'s name?}}"), X($"Your {animal} is called {pet}.")));
                break;
            case 2:
                turns.Add(new("user", X($"{{My favourite colour is {colour}|My favorite color is {colour}|I like {colour}|I love the colour {colour}}}{{.|!|}}")));
                turns.Add(new("assistant", X($"{{{colour} is a beautiful colour!|I like {colour}, too.}} {{Shall I tell you a story with something {colour} in it?|}}")));
                if (random.Next(2) == 0) Exchange((X("{What is my favourite colour?|What's my favorite color?|Which colour do I like?|Do you remember my favourite colour?}"), X($"Your favourite colour is {colour}.")));
                break;
            default:
                turns.Add(new("user", X($"{{I like {animal}s|My favourite animal is the {animal}|I love {animal}s|I think {animal}s are great}}{{.|!|}}".Replace("mouses", "mice").Replace("wolfs", "wolves").Replace("sheeps", "sheep").Replace("deers", "deer").Replace("gooses", "geese").Replace("foxs", "foxes").Replace("ponys", "ponies").Replace("puppys", "puppies"))));
                turns.Add(new("assistant", X($"{{I like stories about a@ {animal}, too!|A@ {animal} is a good hero for a story!}} {{Shall I tell you one?|Would you like to hear one?}}")));
                break;
        }
        return turns;

        void Exchange((string User, string Assistant) pair)
        {
            turns.Add(new("user", pair.User));
            turns.Add(new("assistant", pair.Assistant));
        }
    }

    // ---- the world outside ----

    private static readonly string[] s_foreign =
    [
        "{What is|What do you know about|Explain|Tell me about|Can you explain|How does|Who invented|Describe|Teach me|Define|Give me information about} [x]{?|.|}",
        "{Write an essay about|Write an article about|Write a report on|Write a letter about|Give me five facts about|Summarize|Compare|What do you think about|What is the history of|What is the meaning of} [x]{?|.|}",
        "{What is the capital of|Where is|How big is|How far is|Who is the president of|What is the population of|How do I get to|Who is the king of|When was} [x]{?|}",
        "{How do I|How can I|How to|Help me to|I want to} {fix|buy|sell|learn|understand|build|install|repair|study} [x]{?|.|}",
        "{Write a program in Python|Write code that sorts a list|Write a function in C|Fix this code|print(\"hello\")|def f(x): return x|SELECT * FROM users|Write a regular expression|Debug my program|How do I write a loop?}",
        "{What is [n] times [m]?|Calculate [n] * [m].|What is [n] divided by [m]?|Solve x + [n] = [m].|What is the square root of [n]?|Is [n] a prime number?|What is [n] plus [m]?|What is [n] + [m]?}",
        "{Translate this into German.|Translate \"hello\" to French.|How do you say \"dog\" in Spanish?|What does \"maison\" mean?|Translate [x] into English.}",
        "{Who won the world cup?|Who is the richest man?|Who wrote Hamlet?|Who was the first man on the moon?|Who discovered America?|What is the tallest mountain?|How deep is the ocean?|When did the war end?|What is the meaning of life?|Is there a god?|Who painted the Mona Lisa?|What is the longest river?|How old is the universe?}",
        "{What should I cook for dinner?|Give me a recipe for soup.|How do I lose weight?|What should I invest in?|Is this medicine safe?|I have a fever, what should I do?|Can you book a hotel?|Send an email to my boss.|Play some music.|Set a timer.|Call my mother.|Order a pizza.|Open the door.|Search the web.|Show me a picture.|Draw a picture.}",
        "{Which phone should I buy?|What is the best movie?|What is the price of gold?|Who will win the election?|What is in the news?|Can you recommend a film?|Write my homework.|Write an email to my teacher.|Make a table.|Give me a list of cities.|Make a plan for my trip.}",
    ];

    public (string User, string Assistant) Foreign()
    {
        _grammar.Variables["x"] = random.Next(8) == 0 ? Story.InventName(random) : Pick(Words.Foreign);
        _grammar.Variables["n"] = random.Next(11, 1000).ToString();
        _grammar.Variables["m"] = random.Next(11, 1000).ToString();
        return (X(Pick(s_foreign)), X("{I am sorry, I do not know that. I only know little stories.|That is too difficult for me. I only know little stories about animals and children.|I am only a small storyteller, so I cannot help with that. Would you like to hear a story?|I am sorry, I only know little stories. Shall I tell you one?}"));
    }
}
